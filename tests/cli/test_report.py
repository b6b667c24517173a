"""Reports for people fit the terminal that they are shown on."""

from __future__ import annotations

import sys

import pytest

from runtime.cli.report import table

_ROWS = [("cost", "unknown: [prices] has none for " + ", ".join(["some-model"] * 9)), ("still open", "1 delivery")]


def test_on_a_terminal_texts_are_wrapped_under_where_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    first, second, *_, last = table(_ROWS).splitlines()
    assert first.startswith("cost        unknown: ")
    assert second.startswith(" " * 12 + "some-model")
    assert last == "still open  1 delivery"
    assert all(len(line) <= 60 for line in table(_ROWS).splitlines())


def test_elsewhere_each_row_is_one_line() -> None:
    assert table(_ROWS).splitlines() == [f"cost        {_ROWS[0][1]}", "still open  1 delivery"]
