"""`cso config` shows every value in effect with its origin."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.main import main
from runtime.config.fallbacks import TARGETS
from runtime.config.identity import digest, identity
from runtime.config.settings import Settings
from runtime.config.values import flatten


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("CSO_") or name in TARGETS.values()]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(*args: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(["config", *args])
    return caught.value.code


def test_the_output_is_toml_that_says_where_each_value_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("plan.txt").write_text("Plan.")
    Path("my.toml").write_text("[run]\nseed = 5\n[agent.prompts]\nplan = 'plan.txt'\n")
    monkeypatch.setenv("CSO_MODELS__POLICY__MODEL", "m")
    assert _run("--config", "my.toml") == 0
    out = capsys.readouterr().out
    values = tomllib.loads(out)
    shown = Settings.model_validate(values)
    assert (shown.run.seed, shown.models.policy.model) == (5, "m")
    origins = {line.partition(" = ")[0]: line.rpartition("  # ")[2] for line in out.splitlines() if " = " in line}
    assert (origins["seed"], origins["prompts.plan"], origins["level"]) == ("my.toml:2", "my.toml:4", "default")
    assert "CSO_MODELS__POLICY__MODEL" in out
    assert len({line.index("  # ") for line in out.splitlines() if " = " in line and len(line) < 60}) == 1


def test_every_setting_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run() == 0
    assert Settings.model_validate(tomllib.loads(capsys.readouterr().out)) == Settings()


def test_only_changed_values_are_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--changed") == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "Every setting has its default value.\n")
    Path("config.toml").write_text("[run]\nseed = 1377\nrollouts = 2\n")
    assert _run("--changed") == 0
    assert capsys.readouterr().out == "[run]\nrollouts = 2  # config.toml:3\n"


def test_programs_get_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("[run]\nseed = 5\n")
    assert _run("--json") == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["file"] == "config.toml"
    assert printed["digest"] == digest(identity(Settings.model_validate({"run": {"seed": 5}})))
    assert printed["settings"].keys() == flatten(Settings()).keys()
    assert printed["settings"]["run.seed"] == {"value": 5, "origin": "config.toml:2"}


def test_settings_without_effect_are_pointed_out_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("[critical]\npreset = 'paper'\ngood_min = 0.6\n")
    assert _run() == 0
    assert capsys.readouterr().err.startswith("note: config.toml:2: critical.preset gives good_min = 0.65")


def test_what_a_variable_of_the_published_scripts_gave_is_shown_with_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_URL", "http://gpu:8081/v1/chat/completions")
    monkeypatch.setenv("VLM_URL", "manual")
    assert _run("--changed") == 0
    printed = capsys.readouterr()
    assert 'base_url = "http://gpu:8081/v1"  # environment LLM_URL\n' in printed.out
    assert 'note: VLM_URL: "manual" is no model' in printed.err
    assert _run("--json") == 0
    shown = json.loads(capsys.readouterr().out)["settings"]["models.policy.model"]
    assert shown == {"value": "ck", "origin": "environment LLM_URL"}


def test_a_wrong_configuration_is_a_message_and_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text("[run]\nseeed = 5\n")
    assert _run() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: config.toml:2: unknown key run.seeed; did you mean run.seed?\n"


def test_no_key_is_ever_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-value")
    assert _run() == 0
    assert _run("--json") == 0
    assert "sk-secret-value" not in capsys.readouterr().out
