"""The daemon's own log: what is notable among the events, and of the same trouble not a line for each attempt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
import structlog

from runtime.teller import Teller
from store.database import Database
from store.events import DeliveryFailed
from tests.store.filling import new_run


async def told(folder: Path, teller: Teller, events: Sequence[DeliveryFailed]) -> list[tuple[object, ...]]:
    """What is logged of events: the line, its task, its attempt, and how many others it speaks of."""
    with structlog.testing.capture_logs() as lines:
        async with Database(folder) as database, teller.telling(database):
            for event in events:
                teller.note(event)
    return [tuple(line.get(key) for key in ("event", "task", "attempt", "others")) for line in lines]


async def test_work_that_is_put_off_for_one_cause_has_a_line_in_some_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0.0
    monkeypatch.setattr("runtime.seldom.loop_time", lambda: anyio.current_time() + passed)
    async with Database(tmp_path) as database:
        run = await new_run(database, tasks=("a", "b"))

    def failed(task: int, attempt: int, error: str, *, dead: bool = False) -> DeliveryFailed:
        return DeliveryFailed(
            run=run.id, task=task, handler="collect", event=task, attempt=attempt, dead=dead, error=error
        )

    teller = Teller()
    refused = "endpoint policy: cannot connect: connection refused ({} attempts)"
    first = [failed(1, 1, refused.format(3)), failed(2, 1, refused.format(5)), failed(1, 2, refused.format(5))]
    assert await told(tmp_path, teller, first) == [("work put off", "a", 1, None)]
    passed = 299.0
    later = [failed(2, 2, refused.format(1)), failed(2, 3, "something else"), failed(1, 3, refused, dead=True)]
    assert await told(tmp_path, teller, later) == [("work put off", "b", 3, None), ("work set aside", "a", 3, None)]
    passed = 301.0
    assert await told(tmp_path, teller, [failed(2, 4, refused.format(2))]) == [("work put off", "b", 4, 3)]
    passed = 602.0
    assert await told(tmp_path, teller, [failed(2, 5, refused.format(2))]) == [("work put off", "b", 5, None)]
