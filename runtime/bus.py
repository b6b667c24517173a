"""The event bus: hands each committed event to each handler that takes its kind, and watches over the outcome.

A delivery is done when the handler's completing write and the mark "done" are committed in one transaction. One that
fails is put off with growing, jittered delays up to a ceiling of attempts, then set aside with its error. Handlers
work side by side and none waits for another's failures.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import structlog

from runtime.errors import InfrastructureError
from runtime.handler import Handler, Result
from runtime.lines import Line
from store.database import Database
from store.deliveries import Delivery, count_owed, fail_delivery, finish_delivery
from store.events import Event
from store.transaction import Transaction, now_us

Watcher = Callable[[Event], None]
_ERROR_CHARACTERS = 2000
_log = structlog.get_logger("bus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How failed deliveries are put off: delays in seconds, doubling from `delay` up to `max_delay`."""

    attempts: int = 5
    delay: float = 1.0
    max_delay: float = 300.0

    def put_off(self, failures: int) -> float | None:
        """Seconds until the next attempt after so many failures; None when the ceiling is reached.

        Half of the delay is random, so that what failed together does not come back together.
        """
        if failures >= self.attempts:
            return None
        # The exponent is bounded because a float is.
        delay = min(self.max_delay, self.delay * 2.0 ** min(failures - 1, 60))
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


class Bus:
    """Delivers events to handlers.

    Args:
        retries: how failed deliveries are put off.
        capacity: how many deliveries wait in memory for each handler; the rest wait in the database.
    """

    def __init__(self, *, retries: Retries, capacity: int) -> None:
        self._retries = retries
        self._capacity = capacity
        self._lines: list[Line] = []
        self._watchers: list[Watcher] = []
        self._drained = anyio.Event()

    def watch(self, watcher: Watcher) -> None:
        """Call a function with every event from now on, on the loop and in order; it must be quick."""
        self._watchers.append(watcher)

    def on_commit(self, events: Sequence[Event]) -> None:
        """Take the events of a commit, in order; this is for the database to call."""
        for event in events:
            for watcher in self._watchers:
                watcher(event)
            for line in self._lines:
                if isinstance(event, line.handler.consumes):
                    line.offer(event)

    async def run(self, database: Database, handlers: Sequence[Handler]) -> None:
        """Deliver until cancelled. A handler in work is cancelled with it and its delivery stays owed."""
        delay = self._retries.max_delay
        self._lines = [
            Line(handler, capacity=max(self._capacity, 2 * handler.workers), longest_delay=delay)
            for handler in handlers
        ]
        async with anyio.create_task_group() as tasks:
            for line in self._lines:
                tasks.start_soon(line.feed, database, name=f"feed {line.handler.name}")
                for number in range(line.handler.workers):
                    tasks.start_soon(self._work, database, line, name=f"{line.handler.name} {number}")
            tasks.start_soon(self._watch_for_the_end, database)

    async def wait_until_drained(self) -> None:
        """Wait until nothing is owed to any handler except what was set aside."""
        await self._drained.wait()

    async def _watch_for_the_end(self, database: Database) -> None:
        """Looks at the lines, which is cheap, and asks the database only when they are all idle."""
        while not self._drained.is_set():
            if all(line.idle for line in self._lines) and await count_owed(database) == 0:
                self._drained.set()
            await anyio.sleep(0.05)

    async def _work(self, database: Database, line: Line) -> None:
        while True:
            delivery = await line.take()
            try:
                await self._deliver(database, line, delivery)
            finally:
                line.release(delivery)

    async def _deliver(self, database: Database, line: Line, delivery: Delivery) -> None:
        try:
            result = await line.handler.handle(delivery.event)
            await database.save(partial(_complete, result=result, delivery=delivery))
        except sqlite3.OperationalError:
            raise  # the disk is full or gone: no failure of the stage's, and nothing could be recorded anyway
        except InfrastructureError as error:
            await self._failed(database, line, delivery, str(error))
        except Exception as error:  # noqa: BLE001 - the border of a stage: its defect must not stop the others
            _log.exception("handler failed", handler=line.handler.name, seq=delivery.event.seq)
            await self._failed(database, line, delivery, f"{type(error).__name__}: {error}")

    async def _failed(self, database: Database, line: Line, delivery: Delivery, error: str) -> None:
        delay = self._retries.put_off(delivery.attempts + 1)
        due = None if delay is None else now_us() + int(delay * 1e6)
        write = partial(fail_delivery, delivery=delivery, error=error[:_ERROR_CHARACTERS], due=due)
        await database.save(write)
        line.look()


def _complete(transaction: Transaction, *, result: Result, delivery: Delivery) -> None:
    result(transaction)
    finish_delivery(transaction, delivery)
