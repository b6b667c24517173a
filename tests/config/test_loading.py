"""Layers are merged in their order, each value knows where it came from, and all problems are told at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runtime.config.loading import load_settings
from runtime.config.settings import Settings
from runtime.config.values import flatten
from runtime.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _file(text: str, name: str = "my.toml") -> Path:
    Path(name).write_text(text)
    return Path(name)


def _problems(file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ, overrides)
    return str(caught.value)


def test_without_file_variables_or_options_everything_is_default() -> None:
    loaded = load_settings(None, {}, {})
    assert loaded.settings == Settings()
    assert loaded.file is None
    assert loaded.origins.keys() == flatten(Settings()).keys()
    assert {str(origin) for origin in loaded.origins.values()} == {"default"}


def test_each_layer_overrides_the_one_below_and_is_named_as_the_origin() -> None:
    file = _file("[run]\nname = 'f'\nseed = 1\nrollouts = 2\n")
    loaded = load_settings(file, {"CSO_RUN__NAME": "e", "CSO_RUN__SEED": "2"}, {"run.name": "o", "run.data": None})
    run = loaded.settings.run
    assert (run.name, run.seed, run.rollouts, run.data) == ("o", 2, 2, Path("cso-data"))
    origins = {key: str(loaded.origins[f"run.{key}"]) for key in ("name", "seed", "rollouts", "data")}
    assert origins == {"name": "command line", "seed": "CSO_RUN__SEED", "rollouts": "my.toml:4", "data": "default"}


def test_config_toml_of_the_folder_is_read_unless_another_file_is_named() -> None:
    _file("[run]\nname = 'here'\n", "config.toml")
    other = _file("[run]\nname = 'other'\n")
    assert load_settings(None, {}, {}).settings.run.name == "here"
    assert load_settings(None, {}, {}).file == Path("config.toml")
    assert load_settings(other, {}, {}).settings.run.name == "other"


def test_a_more_specific_variable_wins_over_a_section_as_json() -> None:
    environ = {"CSO_MODELS__PRM": '{"model": "a", "top_p": 1}', "CSO_MODELS__PRM__MODEL": "b"}
    prm = load_settings(None, environ, {}).settings.models.prm
    assert (prm.model, prm.top_p, prm.temperature) == ("b", 1.0, 0.0)


def test_all_problems_of_all_layers_are_told_at_once() -> None:
    file = _file("[run]\nseed = 'x'\n[agnt]\n")
    text = _problems(file, {"CSO_RUN__NAM": "x", "CSO_NOTHING": "y"}, {"run.rollouts": 0})
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "5 problems in the configuration:"
    assert [line.partition(": ")[0] for line in lines[1:]] == [
        "my.toml:2",
        "my.toml:3",
        "CSO_RUN__NAM",
        "command line",
        "CSO_NOTHING",
    ]


def test_a_problem_is_told_also_where_a_higher_layer_hides_it() -> None:
    file = _file("[run]\nseed = '1'\n")
    assert _problems(file, {"CSO_RUN__SEED": "1"}, {}).startswith("my.toml:2: run.seed must be")


def test_an_unreadable_file_does_not_hide_other_problems() -> None:
    text = _problems(Path("none.toml"), {"CSO_RUN__SEED": "x"}, {})
    assert "none.toml: no such configuration file" in text
    assert "CSO_RUN__SEED: run.seed must be" in text


def test_settings_that_do_not_fit_together_are_told_where_they_were_set() -> None:
    file = _file("[models.expert]\ntimeout = 1000\n[critical]\ngood_min = 0.4\n")
    text = _problems(file, {}, {})
    assert "my.toml:2: models.expert.timeout must not be longer than models.expert.deadline" in text
    assert "my.toml:4: critical.bad_max must not be above critical.good_min" in text


def test_settings_that_fit_only_together_may_come_from_different_layers() -> None:
    file = _file("[critical]\nbad_max = 0.7\n")
    critical = load_settings(file, {"CSO_CRITICAL__GOOD_MIN": "0.8"}, {}).settings.critical
    assert (critical.good_min, critical.bad_max) == (0.8, 0.7)


def test_a_preset_gives_the_thresholds_that_nobody_set() -> None:
    loaded = load_settings(_file("[critical]\npreset = 'paper'\n"), {}, {})
    assert (loaded.settings.critical.good_min, loaded.settings.critical.bad_max) == (0.65, 0.45)
    assert str(loaded.origins["critical.good_min"]) == 'preset "paper"'
    assert loaded.notices == ()


def test_a_threshold_beside_the_preset_wins_and_is_pointed_out() -> None:
    loaded = load_settings(_file("[critical]\npreset = 'paper'\ngood_min = 0.6\n"), {}, {})
    assert (loaded.settings.critical.good_min, loaded.settings.critical.bad_max) == (0.6, 0.45)
    assert len(loaded.notices) == 1
    assert "my.toml:3 sets it to 0.6, which wins" in loaded.notices[0]


def test_a_preset_of_a_higher_layer_wins_over_thresholds_below_it() -> None:
    file = _file("[critical]\npreset = 'default'\ngood_min = 0.6\nbad_max = 0.5\n")
    loaded = load_settings(file, {"CSO_CRITICAL__PRESET": "paper"}, {"critical.bad_max": 0.3})
    assert (loaded.settings.critical.good_min, loaded.settings.critical.bad_max) == (0.65, 0.3)
    assert loaded.notices == ()


def test_prompt_files_are_looked_for_and_have_an_origin_each() -> None:
    Path("sub").mkdir()
    Path("sub/plan.txt").write_text("Plan.")
    file = _file("[agent.prompts]\nplan = 'plan.txt'\n", "sub/my.toml")
    loaded = load_settings(file, {}, {})
    assert loaded.settings.agent.prompts == {"plan": Path("sub/plan.txt")}
    assert str(loaded.origins["agent.prompts.plan"]) == "sub/my.toml:2"
    text = _problems(file, {"CSO_AGENT__PROMPTS__END": "end.txt"}, {})
    assert text == "CSO_AGENT__PROMPTS__END: agent.prompts.end: no such file: end.txt"


def test_a_variable_that_holds_a_key_is_no_unknown_setting() -> None:
    environ = {"CSO_MY_KEY": "sk-secret", "CSO_RUN__KEY": "sk-secret", "CSO_MODELS__PRM__API_KEY_ENV": "CSO_MY_KEY"}
    overrides = {"models.judge.api_key_env": "CSO_RUN__KEY"}
    loaded = load_settings(None, environ, overrides)
    assert loaded.settings.models.prm.api_key_env == "CSO_MY_KEY"
    assert "sk-secret" not in repr(loaded)
    assert "CSO_MY_KEY: unknown setting" in _problems(None, {"CSO_MY_KEY": "sk-secret"}, {})


def test_a_list_where_a_variables_name_belongs_is_a_plain_problem() -> None:
    file = _file("[models.prm]\napi_key_env = ['a']\n")
    assert _problems(file, {}, {}).startswith("my.toml:2: models.prm.api_key_env must be")


def test_an_endpoint_without_a_key_does_not_hide_the_command_line() -> None:
    file = _file("[run]\nname = 'a'\n[models.policy]\napi_key_env = ''\n")
    assert load_settings(file, {}, {"run.name": "b"}).settings.run.name == "b"


def test_the_variable_of_the_token_is_no_unknown_setting() -> None:
    assert load_settings(None, {"CSO_API_TOKEN": "t"}, {}).settings == Settings()
    named = _file("[api]\ntoken_env = 'CSO_MINE'\n")
    assert load_settings(named, {"CSO_MINE": "t"}, {}).settings.api.token_env == "CSO_MINE"  # noqa: S105 - a variable
