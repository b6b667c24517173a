"""The settings are valid by default, strict, frozen, and agree with one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runtime.config.settings import Agent, Bus, Critical, Run, Settings, Verify


def test_the_defaults_pass_their_own_rules() -> None:
    assert Settings.model_validate(Settings().model_dump()) == Settings()


def test_settings_cannot_be_changed_once_built() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.run.seed = 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": {"rollouts": "8"}},
        {"run": {"rollouts": True}},
        {"run": {"rollouts": 1.5}},
        {"run": {"rollouts": 0}},
        {"run": {"name": "../up"}},
        {"run": {"name": ""}},
        {"run": {"data": 5}},
        {"run": {"data": " "}},
        {"critical": {"good_min": "0.6"}},
        {"critical": {"good_min": float("nan")}},
        {"critical": {"preset": ["paper"]}},
        {"critical": []},
        {"verify": {"first_success": 1}},
        {"agent": {"prompts": {"plan": ""}}},
        {"agent": {"prompts": {"Not A Name": "x"}}},
        {"resample": {"phase": "neither"}},
        {"unknown": {}},
        {"run": {"unknown": 1}},
    ],
)
def test_wrong_types_values_and_keys_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(wrong)


def test_a_whole_number_is_taken_for_a_setting_with_a_fraction() -> None:
    settings = Settings.model_validate({"models": {"policy": {"temperature": 1}}})
    assert repr(settings.models.policy.temperature) == "1.0"


def test_a_preset_sets_both_thresholds_and_an_explicit_one_wins() -> None:
    paper = Critical.model_validate({"preset": "paper"})
    mixed = Critical.model_validate({"preset": "paper", "good_min": 0.7})
    assert (paper.good_min, paper.bad_max) == (0.65, 0.45)
    assert (mixed.good_min, mixed.bad_max) == (0.7, 0.45)


def test_thresholds_that_overlap_are_refused() -> None:
    with pytest.raises(ValidationError, match="bad_max must not be above good_min"):
        Critical(good_min=0.4, bad_max=0.5)


def test_a_margin_needs_controls() -> None:
    with pytest.raises(ValidationError, match="needs at least one of controls"):
        Verify(margin=0.1)
    assert Verify(margin=0.1, controls=1).margin == 0.1


def test_the_first_delay_may_not_exceed_the_longest() -> None:
    with pytest.raises(ValidationError, match="delay must not be longer than max_delay"):
        Bus(delay=2.0, max_delay=1.0)


def test_paths_are_paths_with_the_home_directory_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = Run.model_validate({"data": "~/runs"})
    agent = Agent.model_validate({"prompts": {"plan": "~/plan.txt"}})
    assert run.data == tmp_path / "runs"
    assert agent.prompts == {"plan": tmp_path / "plan.txt"}


def test_an_unknown_home_directory_is_a_wrong_value() -> None:
    with pytest.raises(ValidationError, match="home directory is unknown"):
        Run.model_validate({"data": "~no-such-user-anywhere/runs"})
