"""A command that a message names is the one to type: it repeats the configuration and data that were given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cli.main import COMMANDS, load_command
from runtime.hints import remember_options, with_options
from tests.cli.typed import typed


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    remember_options(config=None, data=None)
    yield
    remember_options(config=None, data=None)


def test_hints_repeat_the_options_that_were_given_and_no_others() -> None:
    said = (
        "see `cso status`, then `cso retry --all`; a --data of its own: `cso gc --data x`; `cso init`, `cso config`"
    )
    assert with_options(said) == said
    remember_options(config=Path("my config.toml"), data=Path("there"))
    assert with_options(said) == (
        "see `cso status --config 'my config.toml' --data there`, "
        "then `cso retry --all --config 'my config.toml' --data there`; a --data of its own: "
        "`cso gc --data x --config 'my config.toml'`; `cso init`, `cso config --config 'my config.toml'`"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_what_its_hints_repeat(name: str) -> None:
    remember_options(config=Path("c"), data=Path("d"))
    hint = with_options(f"`cso {name}`")
    takes = {option for parameter in load_command(name).params for option in parameter.opts}
    assert set(re.findall(r"--\w+", hint)) <= takes


async def test_a_command_says_what_to_type_for_the_data_that_it_was_given(tmp_path: Path) -> None:
    config, data, tasks = tmp_path / "c.toml", tmp_path / "there", tmp_path / "tasks.jsonl"
    config.write_text("")
    tasks.write_text('{"id": "a", "question": "What is 40 + 2?", "answer": "42"}\n')
    taken = await typed("submit", tasks, "--config", config, "--data", data)
    assert f"the tasks wait for `cso serve --config {config} --data {data}`" in taken.said
    rows = (await typed("status", "--data", data)).output
    assert f"none at work: `cso serve --data {data}` starts one" in rows
