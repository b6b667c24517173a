"""The event bus: hands each committed event to each handler that takes its kind, and watches over the outcome.

A delivery is done when the handler's completing write and the mark "done" are committed in one transaction. One that
fails is put off with growing, jittered delays up to a ceiling of attempts and time, then set aside with its error.
Handlers work side by side and none waits for another's failures. Only deliveries of admitted runs are handed out.

A failure while the disk is full, or the machine in other such trouble, says nothing about the delivery: nothing is
handed out until that is over, and then the delivery is worked on again, uncounted. Nor does a key, a model or a path
that an endpoint refuses: the delivery that met it is set aside, and the rest of its run stays owed until the endpoint
may be tried again. Nor does an endpoint that wants to be left alone for longer than a call may wait, or that has
replied and cannot be reached any more: all of its run stays owed. What would end alike once more, as a request that
is refused for itself, has its delivery set aside at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio

from runtime.clock import loop_time
from runtime.downtime import Downtime
from runtime.errors import BudgetSpentError, InfrastructureError, UnrepeatableError
from runtime.handler import Handler
from runtime.lines import Line
from runtime.logs import get_logger
from runtime.models.errors import EndpointPaused, EndpointStopped, EndpointUnavailable
from store.database import Database
from store.deliveries import Delivery, complete_delivery, count_owed, fail_delivery, rest_delivery
from store.errors import StorageError, StorageTroubleError
from store.events import BudgetSpent, Event

E = TypeVar("E", bound=Exception)
Watcher = Callable[[Event], None]
_ERROR_CHARACTERS = 2000
_log = get_logger("bus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How failed deliveries are put off: delays in seconds, doubling from `delay` up to `max_delay`.

    There is a ceiling on attempts, and one of `max_time` seconds from the first failure to the last attempt, but for
    those in which nobody could try.
    """

    attempts: int = 12
    delay: float = 1.0
    max_delay: float = 300.0
    max_time: float = 21_600.0

    def put_off(self, failures: int, *, since_first: float = 0.0, asked: float = 0.0) -> float | None:
        """Seconds until the next attempt after so many failures; None when a ceiling is reached.

        `since_first`: seconds that have passed since the first of them. `asked`: those for which an endpoint wants to
        be left alone, which are waited for as far as `max_delay` goes.

        Half of the delay is random, so that what failed together does not come back together.
        """
        if failures >= self.attempts:
            return None
        # The exponent is bounded because a float is.
        delay = min(self.max_delay, self.delay * 2.0 ** min(failures - 1, 60))
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        delay = max(delay, min(asked, self.max_delay))
        return None if since_first + delay > self.max_time else delay


@dataclass(eq=False, slots=True)
class AtWork:
    """A delivery that a handler has since `since` (loop time, seconds), and the scope in which it works."""

    handler: str
    event: Event
    since: float
    scope: anyio.CancelScope
    left: anyio.Event | None = None  # set when it is let go of, for whoever waits for that


class Bus:
    """Delivers events to handlers.

    Args:
        retries: how failed deliveries are put off; may be set anew while the bus runs.
        capacity: how many deliveries wait in memory for each handler; the rest wait in the database.
        redact: takes what must not be stored out of an error's text.

    Attributes:
        stands: whether the cap that a handler ran into is still reached; to be set by whoever knows.
        downtime: what does not count as time in which a delivery failed; is to hear of trouble with the disk.
    """

    def __init__(self, *, retries: Retries, capacity: int, redact: Callable[[str], str] = str) -> None:
        self.stands: Callable[[BudgetSpentError], bool] = lambda _error: True
        self.downtime = Downtime()
        self._retries = retries
        self._redact = redact
        self._capacity = capacity
        self._lines: list[Line] = []
        self._watchers: list[Watcher] = []
        self._runs: set[int] = set()
        self._admitted: dict[int, int] = {}  # since when (µs since 1970) each of them is handed out
        self._withdrawn_tasks: set[int] = set()
        self._told: dict[int, BudgetSpent] = {}
        self._held: dict[int, float] = {}  # when (loop time) each of them is taken up again
        self._released = 0.0  # when (loop time) it was last said that endpoints which stopped are to be asked
        self._paused: set[int] = set()  # those of them that go on by themselves, within `max_time`
        self._at_work: set[AtWork] = set()
        self._workers: dict[str, int] = {}
        self._hire: Callable[[Line, int], None] = lambda _line, _number: None
        self._take_up_after: Callable[[int, float], None] = lambda _run, _seconds: None

    @property
    def retries(self) -> Retries:
        """How failed deliveries are put off."""
        return self._retries

    @retries.setter
    def retries(self, retries: Retries) -> None:
        self._retries = retries
        for line in self._lines:
            line.longest_delay = retries.max_delay

    @property
    def at_work(self) -> tuple[AtWork, ...]:
        """The deliveries that handlers are working on."""
        return tuple(self._at_work)

    @property
    def runs(self) -> frozenset[int]:
        """The runs whose deliveries are handed out."""
        return frozenset(self._runs)

    @property
    def held(self) -> frozenset[int]:
        """The runs that wait until an endpoint that stopped may be tried."""
        return frozenset(self._held)

    def watch(self, watcher: Watcher) -> None:
        """Call a function with every event from now on, on the loop and in order; it must be quick."""
        self._watchers.append(watcher)

    def admit(self, runs: Iterable[int]) -> None:
        """Hand out deliveries of these runs too."""
        chosen = set(runs)
        self._admitted |= dict.fromkeys(chosen - self._runs, self.downtime.now())
        self._runs.update(chosen)
        self._paused -= chosen
        for run in chosen:
            self._held.pop(run, None)
        self.look()

    def tell_of_caps_anew(self) -> None:
        """A cap that is reached is told of once; caps have changed, so it is news again."""
        self._told.clear()

    def release_held(self) -> None:
        """Hand out deliveries again of the runs that wait until an endpoint that stopped may be tried."""
        self._released = loop_time()
        self.admit(tuple(self._held))

    async def withdraw(self, *, run: int | None = None, task: int | None = None) -> None:
        """Hand out nothing more of a run or a task, and wait until its handlers have let go of it."""
        if run is not None:
            self._runs.discard(run)
            self._held.pop(run, None)
            self._paused.discard(run)
        if task is not None:
            self._withdrawn_tasks.add(task)
        going = [
            work for work in self._at_work if work.event.run == run or (task is not None and work.event.task == task)
        ]
        waits = []
        for work in going:
            work.left = work.left or anyio.Event()
            waits.append(work.left)
            work.scope.cancel()
        for left in waits:
            await left.wait()
        # Whoever took the run up again meanwhile found them at work.
        self.look()

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
        """Deliver until cancelled. A handler in work is cancelled with it and its delivery stays owed.

        Trouble with the disk is waited out as far as the database does.
        """
        delay = self.retries.max_delay
        self._lines = [
            Line(handler, runs=self._runs, capacity=self._capacity, longest_delay=delay) for handler in handlers
        ]
        async with anyio.create_task_group() as tasks:

            def hire(line: Line, number: int) -> None:
                tasks.start_soon(self._work, database, line, name=f"{line.handler.name} {number}")

            def take_up_after(run: int, seconds: float) -> None:
                tasks.start_soon(self._take_up, run, seconds, name=f"hold run {run}")

            self._hire, self._take_up_after = hire, take_up_after
            for line in self._lines:
                tasks.start_soon(line.feed, database, name=f"feed {line.handler.name}")
                self.staff(line.handler.name, line.handler.workers)

    def staff(self, handler: str, workers: int) -> None:
        """Have at least so many workers for a handler; those that there are stay.

        To have less done at once is for whoever hands out places: a worker without one only waits.
        """
        for line in self._lines:
            if line.handler.name == handler:
                line.widen(2 * workers)
                for number in range(self._workers.get(handler, 0), workers):
                    self._hire(line, number)
                    self._workers[handler] = number + 1

    async def wait_until_drained(self, database: Database) -> None:
        """Wait until the handlers are owed nothing of the admitted runs, or of those that a pause holds.

        What was set aside does not count. Looks at the lines, which is cheap, and asks the database only when they
        are all idle.
        """
        # Idleness of all lines at once is no event of any one of them.
        while self._paused or not self._idle or await self._is_owed(database):  # noqa: ASYNC110
            await anyio.sleep(0.05)

    async def _is_owed(self, database: Database) -> bool:
        owed = await count_owed(database, self._runs)
        return any(owed[line.handler.name] for line in self._lines)

    @property
    def _idle(self) -> bool:
        return bool(self._lines) and all(line.idle for line in self._lines)

    async def _work(self, database: Database, line: Line) -> None:
        while True:
            # Entered anew only after a withdrawal: one for each delivery would cost a tenth of handing it over.
            with anyio.CancelScope() as scope:
                while not scope.cancel_called:
                    await self._serve(database, line, scope)

    async def _serve(self, database: Database, line: Line, scope: anyio.CancelScope) -> None:
        """Take a delivery and see it through, unless it is withdrawn by cancelling the scope."""
        delivery = await line.take()
        event = delivery.event
        work = AtWork(line.handler.name, event, loop_time(), scope)
        self._at_work.add(work)
        try:
            if event.run in self._runs and event.task not in self._withdrawn_tasks:
                await self._deliver(database, line, delivery)
        finally:
            if scope.cancel_called:
                # Replies that have arrived are in line for their commit: whoever does this again must find them.
                with anyio.CancelScope(shield=True):
                    await database.flush()
            self._at_work.discard(work)
            line.release(delivery)
            if work.left is not None:
                work.left.set()

    async def _deliver(self, database: Database, line: Line, delivery: Delivery) -> None:
        while True:
            await database.until_usable()
            try:
                result = await line.handler.handle(delivery.event)
                await database.save(partial(complete_delivery, delivery=delivery, result=result))
            except Exception as error:  # noqa: BLE001 - the border of a stage: its defect must not stop the others
                if spent := _first(BudgetSpentError, error):
                    if not self.stands(spent):
                        continue  # the cap was raised while other calls of the delivery were on their way
                    await self._rest(database, delivery, spent)
                    await database.flush()  # replies of its other calls, which are to be found when it comes again
                    return
                if stopped := _first(EndpointStopped, error):
                    if stopped.raised < self._released and not stopped.attempts:
                        continue  # somebody has said since that it is to be asked
                    await self._hold(database, line, delivery, stopped)
                    await database.flush()
                    return
                if not await _machine_was_at_fault(database, error):
                    is_final = _first(UnrepeatableError, error) is not None
                    await self._failed(database, line, delivery, error, is_final=is_final)
                    return
            else:
                return

    async def _rest(self, database: Database, delivery: Delivery, spent: BudgetSpentError) -> None:
        """Hand out nothing more of the task or run whose budget is spent; everything stays owed."""
        event = delivery.event
        told = BudgetSpent(run=event.run, task=spent.task, setting=spent.setting, cap=spent.cap, spent=spent.spent)
        if spent.task is not None:
            await database.save(partial(rest_delivery, delivery=delivery, why=told))
            return
        self._runs.discard(event.run)
        known = self._told.get(event.run)  # whoever submits more tasks has the run admitted again
        if known is None or (known.setting, known.cap) != (told.setting, told.cap):
            self._told[event.run] = told
            await database.save(lambda transaction: transaction.publish(told))

    async def _hold(self, database: Database, line: Line, delivery: Delivery, error: EndpointStopped) -> None:
        """Hand out nothing more of a run until the endpoint that stopped may be tried again; everything stays owed.

        But for the delivery whose request was refused: that may be its own fault, and it must not be the next to try.
        Where it was only to wait it stays owed as well, unless that takes longer than `max_time`.
        """
        run, seconds = delivery.event.run, error.retry_after or 0.0
        is_pause = isinstance(error, EndpointPaused)
        is_waited_for = isinstance(error, EndpointPaused) and error.lasting + seconds <= self.retries.max_time
        if run in self._runs:
            self._runs.discard(run)
            self._held[run] = loop_time() + seconds
            if is_waited_for:
                self._paused.add(run)
            self._take_up_after(run, seconds)
        if error.attempts and not is_waited_for:
            told = InfrastructureError(f"bus.max_time is too short for this: {error}") if is_pause else error
            await self._failed(database, line, delivery, told, is_final=True)

    async def _take_up(self, run: int, seconds: float) -> None:
        await anyio.sleep(seconds)
        # Somebody may have had it taken up before, and it may be held anew since, for longer.
        if self._held.get(run, math.inf) <= loop_time():
            self.admit([run])

    async def _failed(
        self, database: Database, line: Line, delivery: Delivery, error: Exception, *, is_final: bool = False
    ) -> None:
        said = str(error)
        if not isinstance(error, InfrastructureError):
            _log.error("handler failed", handler=line.handler.name, seq=delivery.event.seq, exc_info=error)
            said = f"{type(error).__name__}: {error}"
        said = said.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair cannot be stored
        now = self.downtime.now()
        # While its run rested, nobody tried.
        began = max(delivery.failing or now, self._admitted.get(delivery.event.run, 0))
        failing = (now - began) / 1e6 - self.downtime.since(began)
        delay = None
        if not is_final:
            delay = self.retries.put_off(delivery.attempts + 1, since_first=failing, asked=_asked(error))
        due = None if delay is None else now + int(delay * 1e6)
        write = partial(fail_delivery, delivery=delivery, error=self._redact(said)[:_ERROR_CHARACTERS], due=due)
        await database.save(write)
        line.look()


async def _machine_was_at_fault(database: Database, error: Exception) -> bool:
    """Whether a stage failed because the disk was full or the like; then only after that is over.

    Raises:
        StorageError: the data directory cannot be used any more, or nobody waits for it: nothing could be recorded.
    """
    found = _first(StorageError, error)
    if found is not None and not (database.patient and isinstance(found, StorageTroubleError)):
        raise found from error
    return await database.was_trouble(error)


def _first(kind: type[E], error: BaseException) -> E | None:
    """The first error of a kind in what a stage raised, which may be a group."""
    return next((one for one in _leaves(error) if isinstance(one, kind)), None)


def _asked(error: BaseException) -> float:
    """Seconds for which an endpoint has asked to be left alone, where that is why a stage failed; else 0."""
    causes = (cause for leaf in _leaves(error) for cause in (leaf, leaf.__cause__))
    return max((cause.retry_after or 0.0 for cause in causes if isinstance(cause, EndpointUnavailable)), default=0.0)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
