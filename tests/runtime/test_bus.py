"""The bus over a real database: every event reaches its handler once, whatever fails."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.bus import Bus, Retries
from runtime.errors import BudgetSpentError, InfrastructureError
from runtime.handler import Result, nothing_more
from runtime.models.errors import EndpointPaused, EndpointStopped, EndpointUnavailable, RequestRefused
from store.database import Database
from store.deliveries import Delivery, count_owed, load_due, revive_deliveries
from store.events import BudgetSpent, DeliveryFailed, Event, TaskFinished, TaskSubmitted
from store.formats.task_files import TaskRecord
from store.runs import create_run
from store.tasks import submit_task
from store.transaction import SqlValues, Transaction, now_us

DEADLINE_S = 20


class Scripted:
    """A handler that does what the test says and remembers what it was given."""

    name = "scripted"
    consumes: tuple[type[Event], ...] = (TaskSubmitted,)

    def __init__(self, react: Callable[[Event], Awaitable[Result]], workers: int = 2) -> None:
        self.react = react
        self.workers = workers
        self.given: list[int] = []

    async def handle(self, event: Event) -> Result:
        """Remember the event, then react."""
        self.given.append(event.seq)
        return await self.react(event)


async def content(_event: Event) -> Result:
    return nothing_more


def submit(transaction: Transaction, run: int, count: int, priority: int = 0) -> None:
    for number in range(count):
        record = TaskRecord(f"t{priority}-{number}", "question", "answer", None, {})
        submit_task(transaction, run=run, record=record, priority=priority)


@contextlib.asynccontextmanager
async def opened(folder: Path, bus: Bus) -> AsyncIterator[Database]:
    subscriptions = {"task-submitted": ["scripted"]}
    bus.admit([1])
    async with Database(folder, subscriptions=subscriptions, on_commit=bus.on_commit) as database:
        yield database


async def begin(database: Database) -> int:
    run = await database.write(lambda t: create_run(t, name="r", digest="d", identity={}))
    return run.id


async def drain(bus: Bus, database: Database, handler: Scripted) -> None:
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.run, database, [handler])
            await bus.wait_until_drained(database)
            tasks.cancel_scope.cancel()


def quick_bus(attempts: int = 5, capacity: int = 4) -> Bus:
    return Bus(retries=Retries(attempts=attempts, delay=0.001, max_delay=0.01), capacity=capacity)


async def test_each_event_is_handled_once_and_finishes_its_task(tmp_path: Path) -> None:
    bus, seen = quick_bus(), list[Event]()
    bus.watch(seen.append)
    handler = Scripted(content)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 100))
        await drain(bus, database, handler)
        assert not await count_owed(database, [1])
    assert len(handler.given) == len(set(handler.given)) == 100
    assert sum(isinstance(event, TaskFinished) for event in seen) == 100


async def test_events_published_while_working_are_delivered_too(tmp_path: Path) -> None:
    bus = quick_bus()

    async def multiply(event: Event) -> Result:
        if len(handler.given) >= 40:
            return nothing_more

        def again(transaction: Transaction) -> None:
            transaction.publish(TaskSubmitted(run=event.run, task=event.task))

        return again

    handler = Scripted(multiply)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 20))
        await drain(bus, database, handler)
        assert not await count_owed(database, [1])
    assert len(handler.given) == len(set(handler.given)) >= 40


async def test_what_a_stopped_bus_left_is_delivered_by_the_next(tmp_path: Path) -> None:
    both_at_work = anyio.Event()

    async def never(_event: Event) -> Result:
        if len(stuck.given) == stuck.workers:
            both_at_work.set()
        await anyio.sleep_forever()
        raise AssertionError

    first, stuck = quick_bus(), Scripted(never)
    async with opened(tmp_path, first) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 10))
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first.run, database, [stuck])
                await both_at_work.wait()
                tasks.cancel_scope.cancel()
    second, handler = quick_bus(), Scripted(content)
    async with opened(tmp_path, second) as database:
        await drain(second, database, handler)
    assert len(handler.given) == 10


async def test_a_failed_delivery_comes_again_until_it_succeeds(tmp_path: Path) -> None:
    bus, seen = quick_bus(), list[Event]()
    bus.watch(seen.append)

    async def third_time(event: Event) -> Result:
        if handler.given.count(event.seq) < 3:
            raise InfrastructureError("the endpoint is down")
        return nothing_more

    handler = Scripted(third_time)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 3))
        await drain(bus, database, handler)
    failures = [event for event in seen if isinstance(event, DeliveryFailed)]
    assert [failure.dead for failure in failures] == [False] * 6
    assert sum(isinstance(event, TaskFinished) for event in seen) == 3


async def test_a_delivery_that_keeps_failing_is_set_aside_and_can_be_put_back(tmp_path: Path) -> None:
    bus = quick_bus(attempts=3)

    async def fail(_event: Event) -> Result:
        raise InfrastructureError("no such luck")

    handler = Scripted(fail)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 1))
        await drain(bus, database, handler)
        (row,) = await database.fetch("SELECT dead, attempts, error FROM deliveries")
        assert tuple(row) == (1, 3, "no such luck")
        assert await database.write(revive_deliveries) == 1
    again, content_handler = quick_bus(), Scripted(content)
    async with opened(tmp_path, again) as database:
        await drain(again, database, content_handler)
        assert not await count_owed(database, [1])
    assert len(content_handler.given) == 1


async def test_a_defect_in_a_handler_does_not_stop_the_others(tmp_path: Path) -> None:
    bus = quick_bus(attempts=1)

    async def odd(event: Event) -> Result:
        if event.seq % 2:
            raise KeyError("defect")
        return nothing_more

    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 10))
        await drain(bus, database, Scripted(odd))
        rows = await database.fetch("SELECT error FROM deliveries WHERE dead = 1")
    assert [row["error"] for row in rows] == ["KeyError: 'defect'"] * 5


async def test_a_completing_write_that_fails_leaves_its_delivery_owed(tmp_path: Path) -> None:
    bus = quick_bus()

    async def broken(_event: Event) -> Result:
        def write(transaction: Transaction) -> None:
            transaction.execute("INSERT INTO runs (name) VALUES ('incomplete')")

        return write

    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 1))
        await drain(bus, database, Scripted(broken))
        (row,) = await database.fetch("SELECT dead, attempts FROM deliveries")
    assert tuple(row) == (1, 5)


async def test_higher_priority_goes_first(tmp_path: Path) -> None:
    bus, handler = quick_bus(), Scripted(content, workers=1)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 20))
        await database.write(lambda t: submit(t, run, 3, priority=7))
        await drain(bus, database, handler)
        rows = await database.fetch(
            "SELECT e.seq FROM events e JOIN tasks k ON k.id = e.task"
            " WHERE e.kind = 'task-submitted' AND k.priority = 7"
        )
    assert handler.given[:3] == [row["seq"] for row in rows]


@pytest.mark.parametrize(("failures", "most"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0)])
def test_delays_double_up_to_the_longest_and_are_jittered(failures: int, most: float) -> None:
    retries = Retries(attempts=10, delay=1.0, max_delay=5.0)
    delays = [retries.put_off(failures) for _ in range(50)]
    assert all(delay is not None and most / 2 <= delay <= most for delay in delays)
    assert len(set(delays)) > 1
    assert retries.put_off(10) is None


def test_nothing_is_put_off_beyond_the_longest_time_since_the_first_failure() -> None:
    retries = Retries(attempts=100, delay=10.0, max_delay=10.0, max_time=60.0)
    assert retries.put_off(5, since_first=49.0) is not None
    assert retries.put_off(5, since_first=56.0) is None
    assert retries.put_off(5, since_first=-3600.0) is not None, "a clock that was set back ends nothing"


@pytest.mark.parametrize(("asked", "least"), [(0.0, 0.5), (20.0, 20.0), (3600.0, 60.0)])
async def test_an_endpoint_that_asks_to_be_left_alone_is_as_far_as_the_longest_delay_goes(
    tmp_path: Path, asked: float, least: float
) -> None:
    bus, failed = Bus(retries=Retries(attempts=2, delay=1.0, max_delay=60.0), capacity=4), anyio.Event()
    bus.watch(lambda event: failed.set() if isinstance(event, DeliveryFailed) else None)

    async def fail(_event: Event) -> Result:
        left_alone = EndpointUnavailable("rate limited", endpoint="policy", retry_after=asked)
        raise InfrastructureError("rate limited (and 1 more)") from left_alone

    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        before = now_us()
        await database.write(lambda t: submit(t, run, 1))
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bus.run, database, [Scripted(fail)])
                await failed.wait()
                tasks.cancel_scope.cancel()
        (row,) = await database.fetch("SELECT dead, due FROM deliveries")
    assert row["dead"] == 0
    assert row["due"] - before >= least * 1e6


async def test_a_delivery_that_fails_for_too_long_is_set_aside_with_attempts_left(tmp_path: Path) -> None:
    bus = Bus(retries=Retries(attempts=100, delay=0.01, max_delay=0.02, max_time=0.2), capacity=4)

    async def fail(_event: Event) -> Result:
        raise InfrastructureError("the endpoint is away")

    handler = Scripted(fail)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 1))
        await drain(bus, database, handler)
        (row,) = await database.fetch("SELECT dead, attempts, failing FROM deliveries")
        assert row["dead"] == 1
        assert 1 < row["attempts"] < 100
        await database.write(revive_deliveries)
        (row,) = await database.fetch("SELECT dead, attempts, failing FROM deliveries")
    assert tuple(row) == (0, 0, None)


def wants_a_pause(seconds: float, *, lasting: float = 0.0, attempts: int = 1) -> EndpointPaused:
    error = EndpointPaused("it wants to be left alone", endpoint="policy", attempts=attempts, retry_after=seconds)
    error.lasting = lasting
    return error


async def test_a_long_pause_is_waited_for_and_counts_for_none_of_its_run(tmp_path: Path) -> None:
    bus, seen = quick_bus(attempts=1), list[Event]()
    bus.watch(seen.append)

    async def twice_in_vain(_event: Event) -> Result:
        if len(handler.given) <= 2:
            raise wants_a_pause(0.05, lasting=1.0)
        return nothing_more

    handler = Scripted(twice_in_vain, workers=1)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 3))
        await drain(bus, database, handler)
        assert not await count_owed(database, [run])
    assert len(handler.given) == 5
    assert not [event for event in seen if isinstance(event, DeliveryFailed)]


async def test_a_run_that_is_held_anew_is_not_taken_up_when_the_first_pause_would_have_ended(tmp_path: Path) -> None:
    bus, held_anew = quick_bus(), anyio.Event()

    async def pause(_event: Event) -> Result:
        if len(handler.given) == 2:
            held_anew.set()
        raise wants_a_pause(0.2 if len(handler.given) == 1 else 30.0, lasting=1.0)

    handler = Scripted(pause, workers=1)
    async with opened(tmp_path, bus) as database, anyio.create_task_group() as tasks:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 1))
        tasks.start_soon(bus.run, database, [handler])
        with anyio.fail_after(DEADLINE_S):
            while run not in bus.held:  # noqa: ASYNC110 - the bus has no event for it
                await anyio.sleep(0.01)
            bus.release_held()
            await held_anew.wait()
            await anyio.sleep(0.4)
        assert (bus.held, len(handler.given)) == (frozenset([run]), 2)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("attempts", "set_aside"), [(1, 1), (0, 0)])
async def test_a_pause_that_outlasts_the_longest_time_holds_the_run_and_sets_aside_what_asked(
    tmp_path: Path, attempts: int, set_aside: int
) -> None:
    bus = Bus(retries=Retries(attempts=5, max_time=60.0), capacity=4)

    async def pause(_event: Event) -> Result:
        raise wants_a_pause(50.0, lasting=20.0, attempts=attempts)

    handler = Scripted(pause, workers=1)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 3))
        await drain(bus, database, handler)
        rows = await database.fetch("SELECT error FROM deliveries WHERE dead = 1")
        assert (await count_owed(database, [run])).total() == 3 - set_aside
    assert (bus.held, len(handler.given)) == (frozenset([run]), 1)
    assert [row["error"].partition(": ")[0] for row in rows] == ["bus.max_time is too short for this"] * set_aside


async def test_a_run_that_waits_for_a_pause_can_be_withdrawn_and_admitted(tmp_path: Path) -> None:
    bus, paused = quick_bus(), anyio.Event()

    async def once_in_vain(_event: Event) -> Result:
        if len(handler.given) == 1:
            paused.set()
            raise wants_a_pause(3600.0)
        return nothing_more

    handler = Scripted(once_in_vain, workers=1)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 1))
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bus.run, database, [handler])
                await paused.wait()
                await anyio.wait_all_tasks_blocked()
                await bus.withdraw(run=run)
                await bus.wait_until_drained(database)
                assert (bus.held, (await count_owed(database, [run])).total()) == (frozenset(), 1)
                bus.admit([run])
                await bus.wait_until_drained(database)
                tasks.cancel_scope.cancel()
        assert not await count_owed(database, [run])


async def test_a_request_that_is_refused_for_itself_is_not_made_again(tmp_path: Path) -> None:
    bus = quick_bus()

    async def refuse(_event: Event) -> Result:
        raise RequestRefused("temperature must be below 2", endpoint="policy", status=400)

    handler = Scripted(refuse)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 3))
        await drain(bus, database, handler)
        rows = await database.fetch("SELECT dead, attempts FROM deliveries")
    assert [tuple(row) for row in rows] == [(1, 1)] * 3
    assert len(handler.given) == 3


@pytest.mark.parametrize("capacity", [2, 4, 64])
async def test_a_task_of_higher_priority_passes_those_that_wait_already(tmp_path: Path, capacity: int) -> None:
    bus, order, first, release = quick_bus(capacity=capacity), list[str](), anyio.Event(), anyio.Event()

    async def hold_the_first(event: Event) -> Result:
        row = await database.fetch_one("SELECT name FROM tasks WHERE id = ?", (event.task,))
        assert row is not None
        order.append(row["name"])
        first.set()
        await release.wait()
        return nothing_more

    handler = Scripted(hold_the_first, workers=1)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 12))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain, bus, database, handler)
            with anyio.fail_after(DEADLINE_S):
                await first.wait()
            await database.write(lambda t: submit(t, run, 3, priority=-1))
            await database.write(lambda t: submit(t, run, 2, priority=7))
            await database.write(lambda t: submit(t, run, 2, priority=9))
            release.set()
    low = [f"t0-{number}" for number in range(1, 12)]
    assert order == ["t0-0", "t9-0", "t9-1", "t7-0", "t7-1", *low, "t-1-0", "t-1-1", "t-1-2"]


async def test_a_task_of_higher_priority_passes_those_that_are_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, order, first, release = quick_bus(capacity=2), list[str](), anyio.Event(), anyio.Event()
    read, go_on = anyio.Event(), anyio.Event()

    async def load_slowly(*args: Any, **kwargs: Any) -> list[Delivery]:
        found = await load_due(*args, **kwargs)
        if any(delivery.event.priority == 7 for delivery in found):
            read.set()
            await go_on.wait()
        return found

    async def hold_the_first(event: Event) -> Result:
        row = await database.fetch_one("SELECT name FROM tasks WHERE id = ?", (event.task,))
        assert row is not None
        order.append(row["name"])
        first.set()
        await release.wait()
        return nothing_more

    monkeypatch.setattr("runtime.lines.load_due", load_slowly)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 3))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain, bus, database, Scripted(hold_the_first, workers=1))
            with anyio.fail_after(DEADLINE_S):
                await first.wait()
                await database.write(lambda t: submit(t, run, 2, priority=7))
                await read.wait()
            await database.write(lambda t: submit(t, run, 2, priority=9))
            go_on.set()
            release.set()
    assert order == ["t0-0", "t9-0", "t9-1", "t7-0", "t7-1", "t0-1", "t0-2"]


@contextlib.asynccontextmanager
async def working(folder: Path, bus: Bus, handler: Scripted, *, tasks: int) -> AsyncIterator[Database]:
    """A database with so many tasks, which the bus hands to a handler while the block runs."""
    async with opened(folder, bus) as database, anyio.create_task_group() as group:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, tasks))
        group.start_soon(bus.run, database, [handler])
        with anyio.fail_after(DEADLINE_S):
            yield database
        group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def one_at_work(
    folder: Path, bus: Bus, ending: Callable[[], None]
) -> AsyncIterator[tuple[Database, anyio.Event]]:
    """A bus whose one delivery is in work, and an event that has it end as `ending` says; once more it goes well."""
    begun, go_on = anyio.Event(), anyio.Event()

    async def react(_event: Event) -> Result:
        if not begun.is_set():
            begun.set()
            with anyio.CancelScope(shield=True):  # as for a reply that is being paid for
                await go_on.wait()
            await anyio.lowlevel.checkpoint()
            ending()
        return nothing_more

    async with working(folder, bus, Scripted(react), tasks=1) as database:
        await begun.wait()
        yield database, go_on


async def test_a_run_that_is_taken_up_again_while_its_work_is_still_let_go_of_goes_on(tmp_path: Path) -> None:
    bus = Bus(retries=Retries(max_delay=3600.0), capacity=4)
    async with one_at_work(tmp_path, bus, lambda: None) as (database, go_on), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: bus.withdraw(run=1))
        await anyio.wait_all_tasks_blocked()
        bus.admit([1])
        # Until the database has been asked, which owes nothing that is not at work.
        while bus._lines[0]._behind:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        go_on.set()
        await bus.wait_until_drained(database)


async def test_work_that_is_done_again_finds_what_was_in_line_for_its_commit(tmp_path: Path) -> None:
    bus, gate, begun, go_on = Bus(retries=Retries(), capacity=4), threading.Event(), anyio.Event(), anyio.Event()
    found: list[int] = []

    def late(transaction: Transaction) -> None:
        gate.wait(DEADLINE_S)
        transaction.publish(BudgetSpent(run=1, task=None, setting="budget.calls", cap=1, spent=1))

    async def react(_event: Event) -> Result:
        found.append(len(await database.fetch("SELECT 1 FROM events WHERE kind = 'budget-spent'")))
        if not begun.is_set():
            begun.set()
            with anyio.CancelScope(shield=True):
                await go_on.wait()
            database.submit(late)
            await anyio.lowlevel.checkpoint()
        return nothing_more

    async with (
        working(tmp_path, bus, Scripted(react), tasks=1) as database,
        anyio.create_task_group() as tasks,
    ):
        await begun.wait()
        tasks.start_soon(lambda: bus.withdraw(run=1))
        await anyio.wait_all_tasks_blocked()
        bus.admit([1])
        go_on.set()
        for _ in range(50):  # time enough for whoever would not wait
            await database.fetch("SELECT 1")
        gate.set()
        await bus.wait_until_drained(database)
    assert found == [0, 1]


async def test_a_refusal_of_a_budget_that_has_been_raised_since_rests_nothing(tmp_path: Path) -> None:
    caps = [5]

    def refuse() -> None:
        raise BudgetSpentError(run=1, task=None, setting="budget.calls", cap=5, spent=5)

    bus = Bus(retries=Retries(max_delay=3600.0), capacity=4)
    bus.stands = lambda error: error.spent >= caps[0]
    async with one_at_work(tmp_path, bus, refuse) as (database, go_on):
        caps[0] = 10
        bus.admit([1])
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        await bus.wait_until_drained(database)
        assert not await count_owed(database, [1])
    assert bus.runs == {1}


async def test_a_worker_whose_deliveries_are_withdrawn_goes_on_with_those_of_others(tmp_path: Path) -> None:
    bus, begun = quick_bus(), [anyio.Event() for _ in range(3)]
    handled: list[int | None] = []

    async def react(event: Event) -> Result:
        assert event.task is not None
        if event.task <= len(begun):
            begun[event.task - 1].set()
            await anyio.sleep_forever()
        handled.append(event.task)
        return nothing_more

    handler = Scripted(react, workers=1)
    async with working(tmp_path, bus, handler, tasks=5):
        for task, event in enumerate(begun, start=1):
            await event.wait()
            assert [work.event.task for work in bus.at_work] == [task]
            await bus.withdraw(task=task)
        while len(handled) < 2:  # noqa: ASYNC110 - the handler has no event for us
            await anyio.sleep(0.01)
    assert handled == [4, 5]
    assert not bus.at_work


class _SlowReading(Database):
    """A database whose readings of what is due take a moment."""

    async def fetch(self, sql: str, values: SqlValues = ()) -> list[sqlite3.Row]:
        rows = await super().fetch(sql, values)
        if "d.attempts" in sql:
            await anyio.sleep(0.05)
        return rows


async def test_what_comes_due_while_the_line_is_filled_is_not_left_for_the_longest_delay(tmp_path: Path) -> None:
    bus = Bus(retries=Retries(delay=1.0, max_delay=10 * DEADLINE_S), capacity=8)
    bus.admit([1])
    handler = Scripted(content)
    async with _SlowReading(
        tmp_path, subscriptions={"task-submitted": ["scripted"]}, on_commit=bus.on_commit
    ) as database:
        run = await begin(database)

        def put_off(transaction: Transaction) -> None:
            submit(transaction, run, 1)
            transaction.execute("UPDATE deliveries SET attempts = 1, due = ?", (now_us() + 30_000,))

        await database.write(put_off)
        await drain(bus, database, handler)
    assert len(handler.given) == 1


async def test_an_idle_line_leaves_the_database_alone_whatever_the_longest_delay(tmp_path: Path) -> None:
    readings = 0

    class Counting(Database):
        async def fetch(self, sql: str, values: SqlValues = ()) -> list[sqlite3.Row]:
            nonlocal readings
            readings += 1
            return await super().fetch(sql, values)

    bus = Bus(retries=Retries(delay=0.0, max_delay=0.0), capacity=8)
    bus.admit([1])
    async with Counting(tmp_path, subscriptions={}, on_commit=bus.on_commit) as database:
        await begin(database)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.run, database, [Scripted(content)])
            await anyio.sleep(0.3)
            tasks.cancel_scope.cancel()
    assert readings < 10


async def test_the_time_for_which_a_run_rests_is_not_counted_as_failing(tmp_path: Path) -> None:
    bus, failures = Bus(retries=Retries(attempts=3, delay=0.01, max_time=60.0), capacity=8), list[DeliveryFailed]()
    bus.watch(lambda event: failures.append(event) if isinstance(event, DeliveryFailed) else None)

    async def fail(_event: Event) -> Result:
        raise InfrastructureError("not now")

    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        hours_ago = now_us() - 15 * 3600 * 10**6

        def failed_before(transaction: Transaction) -> None:
            submit(transaction, run, 1)
            transaction.execute("UPDATE deliveries SET attempts = 1, failing = ?", (hours_ago,))

        await database.write(failed_before)
        await drain(bus, database, Scripted(fail))
    assert [(event.attempt, event.dead) for event in failures] == [(2, False), (3, True)]


async def test_an_error_that_cannot_be_stored_as_it_is_ends_no_bus(tmp_path: Path) -> None:
    bus, failures = quick_bus(attempts=1), list[DeliveryFailed]()
    bus.watch(lambda event: failures.append(event) if isinstance(event, DeliveryFailed) else None)

    async def fail(_event: Event) -> Result:
        raise ValueError("it said \ud83d")

    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 1))
        await drain(bus, database, Scripted(fail))
    assert [event.error for event in failures] == ["ValueError: it said \\ud83d"]


async def test_a_stop_from_before_somebody_said_that_it_is_over_holds_nothing_up(tmp_path: Path) -> None:
    bus = quick_bus()

    async def stopped_at_first(_event: Event) -> Result:
        if not said:
            error = EndpointStopped("it refused the key", endpoint="policy", retry_after=3600.0)
            error.raised = anyio.current_time()
            await anyio.sleep(0.01)
            bus.release_held()
            said.append(True)
            raise error
        return nothing_more

    said: list[bool] = []
    handler = Scripted(stopped_at_first)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 1))
        await drain(bus, database, handler)
        assert not await count_owed(database, [1])
    assert said
    assert len(handler.given) == 2
