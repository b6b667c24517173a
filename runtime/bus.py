"""The event bus: hands each committed event to each handler that takes its kind, and watches over the outcome.

A delivery is done when the handler's completing write and the mark "done" are committed in one transaction. One that
fails is put off with growing, jittered delays up to a ceiling of attempts, then set aside with its error. Handlers
work side by side and none waits for another's failures. Only deliveries of admitted runs are handed out.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import structlog

from runtime.errors import InfrastructureError
from runtime.handler import Handler
from runtime.lines import Line
from store.database import Database
from store.deliveries import Delivery, complete_delivery, count_owed, fail_delivery
from store.events import Event
from store.transaction import now_us

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


@dataclass(eq=False, slots=True)
class _AtWork:
    """A delivery that a handler has, and the scope in which it works."""

    event: Event
    scope: anyio.CancelScope
    left: anyio.Event


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
        self._runs: set[int] = set()
        self._withdrawn_tasks: set[int] = set()
        self._at_work: set[_AtWork] = set()

    @property
    def at_work(self) -> tuple[Event, ...]:
        """The events that handlers are working on."""
        return tuple(work.event for work in self._at_work)

    def watch(self, watcher: Watcher) -> None:
        """Call a function with every event from now on, on the loop and in order; it must be quick."""
        self._watchers.append(watcher)

    def admit(self, runs: Iterable[int]) -> None:
        """Hand out deliveries of these runs too."""
        self._runs.update(runs)
        self.look()

    async def withdraw(self, *, run: int | None = None, task: int | None = None) -> None:
        """Hand out nothing more of a run or a task, and wait until its handlers have let go of it."""
        if run is not None:
            self._runs.discard(run)
        if task is not None:
            self._withdrawn_tasks.add(task)
        going = [
            work for work in self._at_work if work.event.run == run or (task is not None and work.event.task == task)
        ]
        for work in going:
            work.scope.cancel()
        for work in going:
            await work.left.wait()

    def look(self) -> None:
        """The database may owe more than we know of, as after deliveries were put back."""
        for line in self._lines:
            line.look()

    def on_commit(self, events: Sequence[Event]) -> None:
        """Take the events of a commit, in order; this is for the database to call."""
        for event in events:
            for watcher in self._watchers:
                watcher(event)
            if event.run in self._runs:
                for line in self._lines:
                    if isinstance(event, line.handler.consumes):
                        line.offer(event)

    async def run(self, database: Database, handlers: Sequence[Handler]) -> None:
        """Deliver until cancelled. A handler in work is cancelled with it and its delivery stays owed."""
        delay = self._retries.max_delay
        self._lines = [
            Line(handler, runs=self._runs, capacity=max(self._capacity, 2 * handler.workers), longest_delay=delay)
            for handler in handlers
        ]
        async with anyio.create_task_group() as tasks:
            for line in self._lines:
                tasks.start_soon(line.feed, database, name=f"feed {line.handler.name}")
                for number in range(line.handler.workers):
                    tasks.start_soon(self._work, database, line, name=f"{line.handler.name} {number}")

    async def wait_until_drained(self, database: Database) -> None:
        """Wait until nothing of the admitted runs is owed except what was set aside.

        Looks at the lines, which is cheap, and asks the database only when they are all idle.
        """
        # Idleness of all lines at once is no event of any one of them.
        while not self._idle or await count_owed(database, self._runs) > 0:  # noqa: ASYNC110
            await anyio.sleep(0.05)

    @property
    def _idle(self) -> bool:
        return bool(self._lines) and all(line.idle for line in self._lines)

    async def _work(self, database: Database, line: Line) -> None:
        while True:
            delivery = await line.take()
            event = delivery.event
            try:
                if event.run in self._runs and event.task not in self._withdrawn_tasks:
                    await self._deliver_within_scope(database, line, delivery)
            finally:
                line.release(delivery)

    async def _deliver_within_scope(self, database: Database, line: Line, delivery: Delivery) -> None:
        with anyio.CancelScope() as scope:
            work = _AtWork(delivery.event, scope, anyio.Event())
            self._at_work.add(work)
            try:
                await self._deliver(database, line, delivery)
            finally:
                self._at_work.discard(work)
                work.left.set()

    async def _deliver(self, database: Database, line: Line, delivery: Delivery) -> None:
        try:
            result = await line.handler.handle(delivery.event)
            await database.save(partial(complete_delivery, delivery=delivery, result=result))
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
