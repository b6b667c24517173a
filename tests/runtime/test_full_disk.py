"""A run whose disk fills up waits, says so, and ends with the pairs that it would have made anyway."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
import structlog

from runtime.daemon import Daemon, open_daemon
from runtime.reload import apply_settings
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.database import Database
from store.errors import StorageTroubleError
from store.events import DeliveryFailed, Event
from store.export import load_pairs
from tests.acceptance.running import records_of, settings_for
from tests.disks import fill, small_disk
from tests.folders import reachable_folder

DEADLINE_S = 60
SEED, TASKS = 11, 6


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(SEED, TASKS)


@pytest.fixture
def disk() -> Iterator[Path]:
    with reachable_folder() as folder, small_disk(folder / "disk", megabytes=24):
        yield folder / "disk"


@contextlib.asynccontextmanager
async def opened(world: World, data: Path, server: SimulationServer, events: list[Event]) -> AsyncIterator[Daemon]:
    settings = settings_for(server.base_url, data, {"run.stop_grace": 1.0})
    async with open_daemon(settings, {}, search=WorldSearch(world), watchers=[events.append]) as daemon:
        yield daemon


async def pairs_of(database: Database, daemon: Daemon) -> set[tuple[str, int, str, str]]:
    return {(pair.task, pair.step, pair.chosen, pair.rejected) async for pair in load_pairs(database, daemon.run)}


async def test_a_run_whose_disk_fills_up_waits_and_makes_the_same_pairs(world: World, disk: Path) -> None:
    events: list[Event] = []
    with reachable_folder() as elsewhere:
        async with SimulationServer(world) as server, opened(world, elsewhere / "data", server, events) as daemon:
            await daemon.control.submit(records_of(world, elsewhere))
            with anyio.fail_after(DEADLINE_S):
                await daemon.work(until_drained=True)
            expected = await pairs_of(daemon.database, daemon)
        assert expected
        records = records_of(world, elsewhere)
        events.clear()
        async with SimulationServer(world) as server, opened(world, disk / "data", server, events) as daemon:
            await daemon.control.submit(records)
            with anyio.fail_after(DEADLINE_S), structlog.testing.capture_logs() as said:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(fill_and_free, daemon, disk, server, events)
                    await daemon.work(until_drained=True)
            assert await pairs_of(daemon.database, daemon) == expected
            (row,) = await daemon.database.fetch("SELECT count(*) AS n FROM deliveries")
            assert row["n"] == 0
    assert [line["trouble"] for line in said if "trouble" in line] == ["full", None]
    assert not [event for event in events if isinstance(event, DeliveryFailed)]


async def fill_and_free(daemon: Daemon, disk: Path, server: SimulationServer, events: list[Event]) -> None:
    """In the middle of the work leave no room; then see that nothing moves, and make room."""
    while len(events) < 60:  # noqa: ASYNC110 - the bus has no event for a number of events
        await anyio.sleep(0.005)
    filler = fill(disk)
    while daemon.database.trouble is None:  # noqa: ASYNC110 - nor the store for the beginning of trouble
        await anyio.sleep(0.005)
    await quiet(events)
    committed, requests = len(events), len(server.record.entries)
    await quiet(events)
    assert (len(events), len(server.record.entries)) == (committed, requests)
    filler.unlink()


async def quiet(events: list[Event]) -> None:
    """Wait until nothing has been committed for a while."""
    seen = -1
    while seen != len(events):
        seen = len(events)
        await anyio.sleep(0.3)


async def test_a_run_that_is_stopped_while_it_waits_ends_soon_and_goes_on_later(world: World, disk: Path) -> None:
    events: list[Event] = []
    async with SimulationServer(world) as server:
        # Rollouts that are given up free their workspaces: what waits may still be written, or fails.
        with anyio.fail_after(DEADLINE_S), only_storage_errors():
            await work_until_full(world, disk, server, events)
        (disk / "filler").unlink()
        # What was committed is there, and the work goes on from it.
        async with opened(world, disk / "data", server, events) as daemon:
            with anyio.fail_after(DEADLINE_S):
                await daemon.work(until_drained=True)
            assert await pairs_of(daemon.database, daemon)


async def test_a_configuration_that_is_read_anew_while_the_disk_is_full_changes_nothing(
    world: World, disk: Path
) -> None:
    events: list[Event] = []
    data = disk / "data"
    async with SimulationServer(world) as server, opened(world, data, server, events) as daemon:
        wanted = settings_for(server.base_url, data, {"run.rollouts": 2, "budget.calls": 10_000})
        await daemon.control.submit(records_of(world, disk))
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(daemon.work, until_drained=True))
                await until_full(daemon, disk, events)
                before = daemon.settings
                with pytest.raises(StorageTroubleError, match="is full"):
                    await apply_settings(daemon, wanted, {})
                assert (daemon.settings, daemon.slots.total) == (before, before.run.rollouts)
                (disk / "filler").unlink()
                while daemon.database.trouble is not None:  # noqa: ASYNC110 - as above
                    await anyio.sleep(0.005)
                done = await apply_settings(daemon, wanted, {})
                assert done.applied.keys() >= {"run.rollouts", "budget.calls"}


async def until_full(daemon: Daemon, disk: Path, events: list[Event]) -> None:
    """In the middle of the work leave no room, and wait until that is met."""
    while len(events) < 60:  # noqa: ASYNC110 - as above
        await anyio.sleep(0.005)
    fill(disk)
    while daemon.database.trouble is None:  # noqa: ASYNC110 - as above
        await anyio.sleep(0.005)


async def work_until_full(world: World, disk: Path, server: SimulationServer, events: list[Event]) -> None:
    async with opened(world, disk / "data", server, events) as daemon:
        await daemon.control.submit(records_of(world, disk))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(daemon.work, until_drained=True))
            await until_full(daemon, disk, events)
            tasks.cancel_scope.cancel()


@contextlib.contextmanager
def only_storage_errors() -> Iterator[None]:
    try:
        yield
    except* StorageTroubleError:
        pass
