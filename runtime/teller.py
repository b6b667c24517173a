"""Tells in the program's own log what is notable among the events, by the names that people gave.

Everything is in the event log; this is for whoever watches the daemon itself. So of work that is put off for one
cause, as while an endpoint cannot be reached, there is one line in some minutes, with how many others there were.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping

import anyio
import orjson

from runtime.logs import get_logger
from runtime.seldom import Seldom
from store.causes import cause_of
from store.database import Reader
from store.errors import StorageError
from store.events import (
    BudgetSpent,
    DeliveryFailed,
    Event,
    PairVerified,
    Resumed,
    RunStarted,
    TaskCancelled,
    TaskFinished,
)

_TOLD = (BudgetSpent, DeliveryFailed, PairVerified, Resumed, RunStarted, TaskCancelled, TaskFinished)
# Beyond it the oldest go untold: the log on a terminal must not fill the memory of a daemon whose disk is stuck.
_WAITING = 10_000
_log = get_logger("daemon")


class Teller:
    """Tells while the block of `telling` runs; `note` may be called before."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=_WAITING)
        self._wake = anyio.Event()
        self._put_off = Seldom()

    def note(self, event: Event) -> None:
        """Something was committed; this is for the bus to call."""
        if isinstance(event, _TOLD):
            self._waiting.append(event)
            self._wake.set()

    @contextlib.asynccontextmanager
    async def telling(self, reader: Reader) -> AsyncIterator[None]:
        """Tell of events soon after their commit; of the last of them when the block ends.

        Args:
            reader: of the database, for names.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run, reader)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
        await self._tell_all(reader)

    async def _run(self, reader: Reader) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            await self._tell_all(reader)

    async def _tell_all(self, reader: Reader) -> None:
        events = list(self._waiting)
        runs = await _names(reader, "runs", {event.run for event in events})
        tasks = await _names(reader, "tasks", {event.task for event in events if event.task is not None})
        while self._waiting and events and self._waiting[0].seq <= events[-1].seq:
            self._waiting.popleft()
        for event in events:
            place = {"run": runs.get(event.run, f"#{event.run}")}
            if event.task is not None:
                place["task"] = tasks.get(event.task, f"#{event.task}")
            if isinstance(event, DeliveryFailed) and not event.dead:
                self._tell_of_delay(event, place)
            else:
                _tell(event, place)

    def _tell_of_delay(self, event: DeliveryFailed, place: Mapping[str, str]) -> None:
        others = self._put_off.others((event.handler, cause_of(event.error)))
        if others is not None:
            more = {"others": others} if others else {}
            _log.warning(
                "work put off", **place, handler=event.handler, attempt=event.attempt, error=event.error, **more
            )


async def _names(reader: Reader, table: str, identifiers: Iterable[int]) -> Mapping[int, str]:
    try:
        rows = await reader.fetch(
            f"SELECT id, name FROM {table} WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608 - ours
            (orjson.dumps(sorted(identifiers)).decode(),),
        )
    except (sqlite3.Error, StorageError):
        return {}  # the numbers of the rows do, while the disk is in trouble, which is told elsewhere
    return {row["id"]: row["name"] for row in rows}


def _tell(event: Event, place: Mapping[str, str]) -> None:
    match event:
        case DeliveryFailed(dead=True):
            _log.error("work set aside", **place, handler=event.handler, attempt=event.attempt, error=event.error)
        case BudgetSpent():
            _log.warning("budget spent", **place, setting=event.setting, cap=event.cap, spent=event.spent)
        case PairVerified():
            _log.info("pair verified", **place, step=event.step)
        case Resumed():
            _log.info("work resumed", **place, **event.facts())
        case RunStarted():
            _log.info("run begun", **place)
        case TaskCancelled():
            _log.info("task given up", **place, deliveries=event.deliveries)
        case TaskFinished():
            _log.info("task finished", **place)
        case _:
            raise AssertionError(f"{event.kind} is not told of")
