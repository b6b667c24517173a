"""Whatever a model server does wrong, every task reaches a true end, in time, and no fault is taken for evidence.

A run under a fault must leave exactly what an undisturbed one leaves. Where a fault never ends, nothing may be
decided at all. The judge is a model here, since a fault there could decide an outcome by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from runtime.simulation.behaviour import Behaviour
from runtime.simulation.faults import Fault, FaultPlan
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.database import Database
from store.deliveries import revive_deliveries
from store.events import DeliveryFailed, Event
from store.summary import Summary
from tests.acceptance.facts import Facts, facts_of
from tests.acceptance.running import ROLES, records_of, settings_for, work
from tests.folders import reachable_folder

SMALL, LARGE = World.generate(11, 2), World.generate(5, 10)
RATE = 0.3
TIMEOUT_S = 0.5
# The key is refused for good once it is refused: a matter of its own, below.
PASSING = [fault for fault in Fault if fault is not Fault.UNAUTHORIZED]
ALL: dict[Fault, float] = {fault: RATE / len(PASSING) for fault in PASSING}


def plan(rates: Mapping[Fault, float]) -> Behaviour:
    """Faults in their worst form: what is slow is slower than an attempt may take."""
    return Behaviour(faults=FaultPlan(rates=rates, retry_after=0.02, drip=4 * TIMEOUT_S, stall=3600.0))


async def run(
    world: World, data: Path, server: SimulationServer, *, deliveries: int, watchers: tuple[list[Event], ...] = ()
) -> Summary:
    changes: dict[str, object] = {"bus.attempts": deliveries, "judge.method": "model"}
    for role in ROLES:
        changes |= {
            f"models.{role}.attempts": 4,
            f"models.{role}.timeout": TIMEOUT_S,
            f"models.{role}.deadline": 6 * TIMEOUT_S,
            f"models.{role}.backoff": 0.005,
            f"models.{role}.backoff_max": 0.02,
        }
    return await work(
        settings_for(server.base_url, data, changes),
        records_of(world, data),
        search=WorldSearch(world),
        watchers=[events.append for events in watchers],
    )


@contextlib.asynccontextmanager
async def undisturbed(world: World) -> AsyncIterator[Facts]:
    """What the same work leaves without a fault."""
    with reachable_folder() as folder:
        async with SimulationServer(world) as server:
            await run(world, folder / "data", server, deliveries=5)
        yield facts_of(folder / "data")


@pytest.fixture(scope="module")
async def small() -> AsyncIterator[Facts]:
    async with undisturbed(SMALL) as facts:
        yield facts


@pytest.fixture(scope="module")
async def large() -> AsyncIterator[Facts]:
    async with undisturbed(LARGE) as facts:
        yield facts


async def assert_same_end(world: World, data: Path, rates: Mapping[Fault, float], expected: Facts) -> None:
    async with SimulationServer(world, behaviour=plan(rates)) as server:
        summary = await run(world, data, server, deliveries=100)
        committed = {entry.fault for entry in server.record.entries} - {None}
    assert committed == {fault.value for fault in rates}
    assert (summary.tasks_finished, summary.owed, summary.set_aside) == (summary.tasks, 0, [])
    assert facts_of(data).differences(expected) == []


def test_the_undisturbed_run_has_every_stage_to_spoil(small: Facts, large: Facts) -> None:
    for facts in (small, large):
        assert facts.sorts["pairs"]
        assert {"policy", "expert", "prm", "judge"} <= {str(call[2]) for call in facts.sorts["calls"]}


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_at_30_percent_of_calls_changes_nothing_that_is_left(
    fault: Fault, data: Path, small: Facts
) -> None:
    await assert_same_end(SMALL, data, {fault: RATE}, small)


@pytest.mark.parametrize("fault", Fault)
async def test_a_fault_that_never_ends_decides_nothing_and_holds_nothing_up(fault: Fault, data: Path) -> None:
    async with SimulationServer(SMALL, behaviour=plan({fault: 1.0})) as server:
        summary = await run(SMALL, data, server, deliveries=2)
    rollouts = summary.trajectories
    assert (rollouts.success, rollouts.failure, rollouts.open) == (0, 0, 0)
    assert rollouts.error == len(SMALL.tasks)
    assert sum(letter.deliveries for letter in summary.set_aside) == len(SMALL.tasks)
    assert (summary.owed, summary.tasks_finished, summary.pairs) == (0, 0, 0)


async def test_a_refused_key_stops_its_role_with_one_message_and_the_run_goes_on_once_it_is_taken(
    data: Path, small: Facts
) -> None:
    events: list[Event] = []
    async with SimulationServer(SMALL, behaviour=plan({Fault.UNAUTHORIZED: 0.05})) as server:
        summary = await run(SMALL, data, server, deliveries=3, watchers=(events,))
        refusals = [entry for entry in server.record.entries if entry.fault == Fault.UNAUTHORIZED]
        assert summary.set_aside
        # No role is asked again after its key was refused; what was on its way then may be refused as well.
        for role in {entry.role for entry in refusals}:
            refused = [entry for entry in server.record.entries if entry.role == role]
            first = next(entry for entry in refused if entry.fault == Fault.UNAUTHORIZED)
            assert first.ended is not None
            assert not [entry for entry in refused if entry.started > first.ended + TIMEOUT_S]
        messages = {event.error.partition(" (and")[0] for event in events if isinstance(event, DeliveryFailed)}
        assert all("the key was refused" in message for message in messages)
        server.behaviour = Behaviour()
        async with Database(data) as database:
            await database.write(partial(revive_deliveries, run=None))
        summary = await run(SMALL, data, server, deliveries=3)
    assert (summary.tasks_finished, summary.set_aside) == (summary.tasks, [])
    assert facts_of(data).differences(small) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_at_30_percent_of_calls_of_a_larger_run(fault: Fault, data: Path, large: Facts) -> None:
    await assert_same_end(LARGE, data, {fault: RATE}, large)


async def test_all_faults_together_at_30_percent_change_nothing_that_is_left(data: Path, large: Facts) -> None:
    await assert_same_end(LARGE, data, ALL, large)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
async def test_all_faults_together_at_60_percent(number: int, data: Path) -> None:
    world = World.generate(100 + number, 6)
    async with undisturbed(world) as expected:
        async with SimulationServer(
            world, behaviour=plan({fault: 2 * rate for fault, rate in ALL.items()})
        ) as server:
            summary = await run(world, data, server, deliveries=100)
        assert (summary.tasks_finished, summary.set_aside) == (summary.tasks, [])
        assert facts_of(data).differences(expected) == []
