"""A run's identity holds what decides results and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.config.identity import digest, identity
from runtime.config.settings import Settings
from runtime.errors import ConfigError

ROLE_OPERATION = ("base_url", "api_key_env", "timeout", "deadline", "attempts", "max_in_flight")


def _settings(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"name": "other", "data": "elsewhere", "rollouts": 1}},
        {"models": {"trace_headers": False}},
        {"models": {"policy": {"base_url": "http://h/v1", "api_key_env": "K", "timeout": 1.0, "deadline": 2.0}}},
        {"models": {"policy": {"attempts": 1, "max_in_flight": 1}}},
        {"resample": {"workers": 1}},
        {"bus": {"attempts": 1, "delay": 0.0, "max_delay": 1.0, "queue": 1}},
        {"log": {"level": "debug"}},
        {"models": {"judge": {"model": "not asked by the exact judge"}}},
    ],
)
def test_operational_settings_do_not_change_the_identity(change: dict[str, Any]) -> None:
    assert identity(_settings(**change)) == identity(Settings())


@pytest.mark.parametrize(
    "change",
    [
        {"run": {"trajectories": 2}},
        {"run": {"seed": 1}},
        {"models": {"policy": {"model": "m"}}},
        {"models": {"expert": {"temperature": 0.7}}},
        {"models": {"prm": {"max_tokens": 1}}},
        {"agent": {"max_steps": 20}},
        {"sandbox": {"memory_mb": 512}},
        {"search": {"backend": "other"}},
        {"resample": {"alternatives": 3}},
        {"critical": {"preset": "paper"}},
        {"verify": {"controls": 1}},
        {"judge": {"method": "model"}},
    ],
)
def test_settings_that_decide_results_change_the_identity_and_its_digest(change: dict[str, Any]) -> None:
    changed = identity(_settings(**change))
    assert changed != identity(Settings())
    assert digest(changed) != digest(identity(Settings()))


def test_no_operational_setting_is_in_the_identity_of_any_role() -> None:
    keys = identity(_settings(judge={"method": "model"}))
    assert not [key for key in keys if key.startswith("models.") and key.endswith(ROLE_OPERATION)]
    assert {"models.policy.model", "models.judge.model", "critical.good_min"} <= keys.keys()


def test_a_preset_and_the_same_thresholds_written_out_are_the_same_run() -> None:
    named = _settings(critical={"preset": "paper"})
    written = _settings(critical={"good_min": 0.65, "bad_max": 0.45})
    assert identity(named) == identity(written)


def test_prompt_files_count_by_content_and_not_by_place(tmp_path: Path) -> None:
    for name, text in (("a", "Plan."), ("b", "Plan."), ("c", "Plan well.")):
        (tmp_path / name).write_text(text)
    first, moved, edited = (
        identity(_settings(agent={"prompts": {"plan": str(tmp_path / name)}})) for name in ("a", "b", "c")
    )
    assert first == moved
    assert first["agent.prompts.plan"] != edited["agent.prompts.plan"]
    assert "agent.prompts" not in first


def test_a_prompt_file_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.prompts\.plan: .*gone\.txt cannot be read"):
        identity(_settings(agent={"prompts": {"plan": str(tmp_path / "gone.txt")}}))


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": "x"}) == digest({"b": "x", "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 32


def test_a_whole_number_in_place_of_a_fraction_gives_the_same_digest() -> None:
    whole = _settings(models={"policy": {"temperature": 1}})
    fraction = _settings(models={"policy": {"temperature": 1.0}})
    assert digest(identity(whole)) == digest(identity(fraction))
