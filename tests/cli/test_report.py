"""Reports for people fit the terminal that they are shown on."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from runtime.cli.report import table
from store.database import Database
from store.deliveries import Delivery, fail_delivery
from store.events import TaskSubmitted
from store.transaction import now_us
from tests.cli.typed import typed
from tests.store.filling import new_run

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


async def test_what_is_put_off_says_how_long_it_is_until_it_is_tried_again(tmp_path: Path) -> None:
    async with Database(tmp_path, subscriptions={"task-submitted": ["collect"]}) as database:
        run = await new_run(database, tasks=("a", "b"))
        rows = await database.fetch("SELECT seq, task FROM events WHERE kind = 'task-submitted' ORDER BY seq")
        for row, seconds in zip(rows, (600, 1200), strict=True):
            event = TaskSubmitted(run=run.id, task=row["task"], seq=row["seq"])
            fail = partial(
                fail_delivery, delivery=Delivery("collect", event), error="x", due=now_us() + seconds * 10**6
            )
            await database.write(fail)
    told = (await typed("status", "--data", tmp_path)).output
    assert "2 deliveries, 2 of them put off after a failure, the next for 10 min more\n" in told
