"""One source at a time is read, and unreadable ones are refused with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.config.layers import Origin, from_overrides, plant, read_environment, read_file, walk
from runtime.errors import ConfigError


def _write(folder: Path, content: str | bytes) -> Path:
    path = folder / "some.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_file_is_a_layer_whose_keys_know_their_lines(tmp_path: Path) -> None:
    path = _write(tmp_path, "[run]\nname = 'x'\nseed = 2\n")
    layer = read_file(path)
    assert layer.data == {"run": {"name": "x", "seed": 2}}
    assert str(layer.origin(("run", "seed"))) == f"{path}:3"


def test_prompts_of_a_file_lie_beside_it(tmp_path: Path) -> None:
    path = _write(tmp_path, "[agent.prompts]\nplan = 'plan.txt'\nend = '/abs/end.txt'\naction = '~/a.txt'\n")
    prompts = {key[-1]: value for key, value in walk(read_file(path).data)}
    assert prompts == {"plan": str(tmp_path / "plan.txt"), "end": "/abs/end.txt", "action": "~/a.txt"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[run]\nname = = 1\n", "some.toml:2: not valid TOML"),
        ("[run]\nname = 'a'\nname = 'b'\n", "not valid TOML: Cannot overwrite a value"),
        (b"\xef\xbb\xbf[run]\n", "some.toml:1: begins with a byte-order mark"),
        ("[run]\n".encode("utf-16"), "some.toml: not UTF-8 text"),
        (b'[run]\nname = "\xe9"\n', "some.toml: not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_its_line(tmp_path: Path, content: str | bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_file(_write(tmp_path, content))


def test_a_syntax_error_does_not_repeat_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_file(_write(tmp_path, "api_key = sk-secret\n"))
    assert "sk-secret" not in str(caught.value)


def test_a_path_that_is_no_file_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cso init"):
        read_file(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        read_file(tmp_path)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_file(Path("/dev/null"))


def test_each_variable_is_a_layer_of_its_own_with_its_value_decoded() -> None:
    layers, unread = read_environment(
        {
            "CSO_AGENT__MAX_STEPS": "8",
            "CSO_VERIFY__FIRST_SUCCESS": "false",
            "CSO_RUN__NAME": "12",
            "CSO_AGENT__PROMPTS__PLAN": "plan.txt",
            "OTHER": "1",
            "cso_run__seed": "1",
        }
    )
    assert unread == []
    assert {layer.source.name: layer.data for layer in layers} == {
        "CSO_AGENT__MAX_STEPS": {"agent": {"max_steps": 8}},
        "CSO_VERIFY__FIRST_SUCCESS": {"verify": {"first_success": False}},
        "CSO_RUN__NAME": {"run": {"name": "12"}},
        "CSO_AGENT__PROMPTS__PLAN": {"agent": {"prompts": {"plan": "plan.txt"}}},
    }


def test_a_section_as_json_comes_before_its_single_values() -> None:
    layers, _ = read_environment({"CSO_RUN__NAME": "later", "CSO_RUN": '{"name": "earlier", "seed": 3}'})
    assert [layer.source.name for layer in layers] == ["CSO_RUN", "CSO_RUN__NAME"]


def test_variables_that_name_no_section_or_hold_bad_json_are_listed() -> None:
    layers, unread = read_environment({"CSO_NOTHING": "x", "CSO_RUN": "{bad", "CSO_AGENT__PROMPTS": "{bad"})
    assert layers == []
    assert sorted(unread) == ["CSO_AGENT__PROMPTS", "CSO_NOTHING", "CSO_RUN"]


def test_options_that_were_not_given_are_no_part_of_the_command_line_layer() -> None:
    layer = from_overrides({"run.name": "x", "run.seed": None})
    assert layer.data == {"run": {"name": "x"}}
    assert str(layer.origin(("run", "name"))) == "command line"


def test_a_value_cannot_be_planted_below_a_plain_one() -> None:
    with pytest.raises(ConfigError, match="already has a plain value"):
        plant({"run": 1}, ("run", "name"), "x")


def test_an_origin_reads_as_a_place() -> None:
    assert str(Origin("default")) == "default"
    assert str(Origin("file", "a.toml")) == "a.toml"
    assert str(Origin("file", "a.toml", 3)) == "a.toml:3"
    assert str(Origin("environment", "CSO_X")) == "CSO_X"
    assert str(Origin("preset", "paper")) == 'preset "paper"'
