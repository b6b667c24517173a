"""The machine's own troubles are told, waited out, and never counted against the work that met them."""

from __future__ import annotations

import asyncio
import errno
import resource
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest
import structlog

import runtime.machine
from runtime.bus import Bus, Retries
from runtime.errors import InfrastructureError
from runtime.handler import Result, nothing_more
from runtime.machine import raise_descriptor_limit, tell_of_trouble, watch_clock
from store.database import Database
from store.deliveries import load_due
from store.errors import DamagedDatabaseError, StorageTroubleError
from store.events import DeliveryFailed, Event, TaskSubmitted
from store.formats.task_files import TaskRecord
from store.runs import create_run
from store.tasks import submit_task
from store.transaction import Transaction, now_us
from store.trouble import has_room
from tests.disks import fill, small_disk

DEADLINE_S = 20


class Scripted:
    """A handler that does what the test says."""

    name = "scripted"
    consumes: tuple[type[Event], ...] = (TaskSubmitted,)
    workers = 2

    def __init__(self, react: Callable[[Event], Awaitable[Result]]) -> None:
        self.react = react
        self.given = 0

    async def handle(self, event: Event) -> Result:
        """Count, then react."""
        self.given += 1
        return await self.react(event)


def submit(transaction: Transaction, count: int) -> None:
    run = create_run(transaction, name="r", digest="d", identity={}).id
    for number in range(count):
        submit_task(transaction, run=run, record=TaskRecord(f"t{number}", "question", "answer", None, {}))


async def drain(folder: Path, handler: Scripted, seen: list[Event]) -> None:
    bus = Bus(retries=Retries(attempts=2, delay=0.001, max_delay=0.01), capacity=4)
    bus.watch(seen.append)
    bus.admit([1])
    subscriptions = {"task-submitted": ["scripted"]}
    async with Database(folder, subscriptions=subscriptions, on_commit=bus.on_commit) as database:
        await database.write(partial(submit, count=4))
        async with database.waiting_out_trouble(), anyio.create_task_group() as tasks:
            tasks.start_soon(bus.run, database, [handler])
            with anyio.fail_after(DEADLINE_S):
                await bus.wait_until_drained(database)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), InfrastructureError("the browser died")])
async def test_what_fails_while_the_disk_is_full_comes_again_uncounted(tmp_path: Path, error: Exception) -> None:
    seen: list[Event] = []
    with small_disk(tmp_path / "disk", megabytes=16):

        async def fail_while_full(_event: Event) -> Result:
            if handler.given == 1:
                filler = fill(tmp_path / "disk")
                loop.call_later(1.5, filler.unlink)
                raise error
            return nothing_more

        loop = asyncio.get_running_loop()
        handler = Scripted(fail_while_full)
        await drain(tmp_path / "disk" / "data", handler, seen)
    assert not [event for event in seen if isinstance(event, DeliveryFailed)]
    assert handler.given >= 5


async def test_what_fails_because_another_disk_is_full_waits_for_that_one(tmp_path: Path) -> None:
    seen: list[Event] = []
    with small_disk(tmp_path / "disk", megabytes=16):

        async def fail_while_full(_event: Event) -> Result:
            if handler.given == 1:
                loop.call_later(1.5, fill(tmp_path / "disk").unlink)
            if not has_room(tmp_path / "disk"):
                cause = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "disk" / "missing"))
                raise InfrastructureError("no room for temporary files") from cause
            return nothing_more

        loop = asyncio.get_running_loop()
        handler = Scripted(fail_while_full)
        with structlog.testing.capture_logs():
            await drain(tmp_path / "data", handler, seen)
    assert not [event for event in seen if isinstance(event, DeliveryFailed)]
    assert handler.given >= 5


async def test_what_fails_for_want_of_descriptors_comes_again_uncounted(tmp_path: Path) -> None:
    seen: list[Event] = []

    async def fail_at_first(_event: Event) -> Result:
        if handler.given > 1:
            return nothing_more
        raise InfrastructureError("the endpoint is unreachable") from OSError(errno.EMFILE, "Too many open files")

    handler = Scripted(fail_at_first)
    await drain(tmp_path, handler, seen)
    assert not [event for event in seen if isinstance(event, DeliveryFailed)]
    assert handler.given == 5


async def test_what_fails_on_a_sound_disk_is_counted(tmp_path: Path) -> None:
    seen: list[Event] = []

    async def fail(_event: Event) -> Result:
        raise OSError(28, "a small folder of its own is full")

    await drain(tmp_path, Scripted(fail), seen)
    failures = [event for event in seen if isinstance(event, DeliveryFailed)]
    assert len(failures) == 4 * 2
    assert "No space" not in failures[0].error


async def test_damage_that_a_stage_meets_ends_the_work(tmp_path: Path) -> None:
    async def damaged(_event: Event) -> Result:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meet_damage, tmp_path)
        raise AssertionError

    with pytest.raises(ExceptionGroup) as caught:
        await drain(tmp_path, Scripted(damaged), [])
    assert caught.value.subgroup(DamagedDatabaseError) is not None


async def meet_damage(folder: Path) -> None:
    raise DamagedDatabaseError(folder / "cso.sqlite3", "malformed")


def put_off(transaction: Transaction, seq: int, due: int) -> None:
    transaction.execute("UPDATE deliveries SET due = ? WHERE event = ?", (due, seq))


async def test_deliveries_put_off_by_a_clock_that_was_set_back_are_due(tmp_path: Path) -> None:
    subscriptions = {"task-submitted": ["scripted"]}
    async with Database(tmp_path, subscriptions=subscriptions) as database:
        await database.write(partial(submit, count=3))
        hour, now = 3600 * 1_000_000, now_us()
        for seq, due in ((2, now + hour // 2), (3, now + 24 * hour)):
            await database.write(partial(put_off, seq=seq, due=due))
        found = await load_due(database, "scripted", runs=[1], now=now, horizon=now + hour, limit=9, held=[])
    assert [delivery.event.seq for delivery in found] == [3, 4]


async def test_a_clock_that_is_set_back_is_told_once() -> None:
    readings = iter([1000.0, 1000.0, 400.0, 400.0, 400.0, 400.0])
    set_back = anyio.Event()
    with structlog.testing.capture_logs() as said, anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            watch = partial(watch_clock, set_back.set, clock=lambda: next(readings, 400.0), every=0.01)
            tasks.start_soon(watch)
            await set_back.wait()
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
    assert [line["event"].partition(":")[0] for line in said] == ["the clock was set back by 600 seconds"]


def test_trouble_is_told_with_what_to_do_and_its_end_is_told() -> None:
    with structlog.testing.capture_logs() as said:
        tell_of_trouble(StorageTroubleError("full", "the disk of d is full", "free some space there"))
        tell_of_trouble(None)
    waits, goes_on = (line["event"] for line in said)
    assert waits.startswith("work waits: the disk of d is full. Next: free some space there; work then goes on")
    assert goes_on == "the trouble is over: work goes on"


def test_the_process_may_open_as_many_files_as_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        monkeypatch.setattr(runtime.machine, "_DESCRIPTORS", 300)
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(300, hard)
        assert raise_descriptor_limit() == min(300, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
