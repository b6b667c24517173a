"""Data goes to stdout, messages to stderr."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from runtime.cli.output import say, say_error, write_data, write_json

if TYPE_CHECKING:
    import pytest


def test_data_goes_to_stdout_and_ends_in_one_line_break(capsys: pytest.CaptureFixture[str]) -> None:
    write_data("a")
    write_data("b\n")
    assert capsys.readouterr() == ("a\nb\n", "")


def test_an_object_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": [1, None], "ü": "x"})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None], "ü": "x"}


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("working")
    say_error("broken")
    assert capsys.readouterr() == ("", "working\nerror: broken\n")
