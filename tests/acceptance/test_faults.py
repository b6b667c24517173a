"""Whatever a model server does wrong, every task reaches a true end, in time, and no fault is taken for evidence.

A run under faults that pass must leave exactly what an undisturbed one leaves. To a content filter and to messages
that are too long the run itself reacts, so that it may go another way; but every way is made of true replies. The
judge is a model here, since a fault there could decide an outcome by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from runtime.config.settings import Settings
from runtime.reload import apply_settings
from runtime.simulation.behaviour import Behaviour
from runtime.simulation.faults import Fault, FaultPlan
from runtime.simulation.record import Entry
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.database import Database
from store.deliveries import revive_deliveries
from store.events import DeliveryFailed, Event, TaskFinished
from store.summary import Summary
from tests.acceptance.facts import Facts, facts_of
from tests.acceptance.running import ROLES, Working, daemon_at_work, records_of, settings_for, work
from tests.acceptance.truth import assert_only_true_replies_count
from tests.folders import reachable_folder

ONE, SMALL, LARGE = World.generate(7, 1), World.generate(11, 2), World.generate(5, 10)
RATE = 0.3
TIMEOUT_S = 0.3
# What stops an endpoint stays until somebody mends it: a matter of its own, below.
STOPPING = [Fault.UNAUTHORIZED, Fault.NO_MODEL]
PASSING = [fault for fault in Fault if fault not in STOPPING]
FILTERS = [Fault.CONTENT_FILTER, Fault.FILTERED]
REACTED_TO = [*FILTERS, Fault.CONTEXT_LENGTH]
NOT_REACTED_TO = [fault for fault in PASSING if fault not in REACTED_TO]
# These are kinds of others, so that the larger runs are enough for them.
VARIANTS = [Fault.RATE_LIMIT_DATE, Fault.UNAVAILABLE, Fault.SHAPELESS]
# One of each kind; the others take the same way.
LASTING = [Fault.RATE_LIMIT_SECONDS, Fault.STALL, Fault.TRUNCATED, Fault.UNAUTHORIZED, Fault.CONTEXT_LENGTH]


def evenly(faults: Sequence[Fault], rate: float) -> dict[Fault, float]:
    return {fault: rate / len(faults) for fault in faults}


def plan(rates: Mapping[Fault, float], models: frozenset[str] = frozenset()) -> Behaviour:
    """Faults in their worst form: what is slow is slower than an attempt may take."""
    return Behaviour(faults=FaultPlan(rates=rates, models=models, retry_after=0.02, drip=4 * TIMEOUT_S, stall=3600.0))


def settings(server: SimulationServer, data: Path, *, deliveries: int, **more: object) -> Settings:
    """Settings of a run that gives little time to a call; `run__rollouts` stands for `run.rollouts`."""
    changes: dict[str, object] = {"bus.attempts": deliveries, "judge.method": "model"}
    changes |= {name.replace("__", "."): value for name, value in more.items()}
    for role in ROLES:
        changes |= {
            f"models.{role}.attempts": 4,
            f"models.{role}.timeout": TIMEOUT_S,
            f"models.{role}.deadline": 6 * TIMEOUT_S,
            f"models.{role}.backoff": 0.005,
            f"models.{role}.backoff_max": 0.02,
        }
    return settings_for(server.base_url, data, changes)


async def run(
    world: World,
    data: Path,
    server: SimulationServer,
    *,
    deliveries: int,
    events: list[Event] | None = None,
    **more: object,
) -> Summary:
    return await work(
        settings(server, data, deliveries=deliveries, **more),
        records_of(world, data),
        search=WorldSearch(world),
        watchers=[] if events is None else [events.append],
    )


@contextlib.asynccontextmanager
async def at_work(world: World, data: Path, server: SimulationServer, **more: object) -> AsyncIterator[Working]:
    """A daemon that works on a world while the block runs, as `cso serve` does."""
    async with daemon_at_work(settings(server, data, deliveries=3, **more), world) as working:
        yield working


@contextlib.asynccontextmanager
async def undisturbed(world: World) -> AsyncIterator[Facts]:
    """What the same work leaves without a fault."""
    with reachable_folder() as folder:
        async with SimulationServer(world) as server:
            await run(world, folder / "data", server, deliveries=5)
        yield facts_of(folder / "data")


@pytest.fixture(scope="module")
async def one() -> AsyncIterator[Facts]:
    async with undisturbed(ONE) as facts:
        yield facts


@pytest.fixture(scope="module")
async def small() -> AsyncIterator[Facts]:
    async with undisturbed(SMALL) as facts:
        yield facts


@pytest.fixture(scope="module")
async def large() -> AsyncIterator[Facts]:
    async with undisturbed(LARGE) as facts:
        yield facts


def assert_committed(rates: Mapping[Fault, float], entries: Sequence[Entry]) -> None:
    """A fault alone was committed, and most of many together: a small run does not meet every one of them."""
    met = {entry.fault for entry in entries} - {None}
    assert met <= {fault.value for fault in rates}
    assert 2 * len(met) > len(rates)


async def assert_true_end(
    world: World, data: Path, rates: Mapping[Fault, float], expected: Facts | None = None
) -> None:
    """Work under faults until every task is finished, and look at what is left."""
    async with SimulationServer(world, behaviour=plan(rates)) as server:
        summary = await run(world, data, server, deliveries=100)
        entries = server.record.entries
    assert_committed(rates, entries)
    assert (summary.tasks_finished, summary.owed, summary.set_aside) == (summary.tasks, 0, [])
    assert_only_true_replies_count(data, world, entries, refusals=FILTERS)
    if expected is not None:
        assert facts_of(data).differences(expected) == []


async def test_the_undisturbed_runs_have_every_stage_to_spoil(one: Facts, small: Facts) -> None:
    for facts in (one, small):
        assert {call[2] for call in facts.sorts["call"]} == {"policy", "expert", "prm", "judge"}
        assert any("@" in str(trajectory[0]) for trajectory in facts.sorts["trajectory"])
    assert one.sorts["pair"]


@pytest.mark.parametrize("fault", [fault for fault in NOT_REACTED_TO if fault not in VARIANTS])
async def test_a_fault_at_30_percent_of_calls_changes_nothing_that_is_left(
    fault: Fault, data: Path, one: Facts
) -> None:
    await assert_true_end(ONE, data, {fault: RATE}, one)


@pytest.mark.parametrize("fault", REACTED_TO)
async def test_refusals_at_30_percent_of_calls_leave_nothing_but_true_replies(fault: Fault, data: Path) -> None:
    await assert_true_end(SMALL, data, {fault: RATE})


async def test_all_faults_together_at_30_percent_lose_no_task_and_decide_nothing(data: Path) -> None:
    await assert_true_end(SMALL, data, evenly(PASSING, RATE))


async def test_all_passing_faults_together_at_30_percent_change_nothing_that_is_left(
    data: Path, small: Facts
) -> None:
    await assert_true_end(SMALL, data, evenly(NOT_REACTED_TO, RATE), small)


async def assert_true_end_if_told_to_try_again(
    world: World, data: Path, rates: Mapping[Fault, float], expected: Facts | None = None
) -> None:
    """As `assert_true_end`, with somebody who says `cso retry` whenever something was set aside."""
    async with (
        SimulationServer(world, behaviour=plan(rates)) as server,
        at_work(world, data, server) as (daemon, seen),
    ):
        answered = 0
        while seen.count(TaskFinished) < len(world.tasks):
            failed = sum(isinstance(event, DeliveryFailed) and event.dead for event in seen.events)
            if failed > answered:
                answered = failed
                await daemon.control.retry()
            else:
                await seen.moved.wait()
        entries = server.record.entries
    assert_committed(rates, entries)
    assert_only_true_replies_count(data, world, entries, refusals=FILTERS)
    if expected is not None:
        assert facts_of(data).differences(expected) == []


@pytest.mark.parametrize("fault", STOPPING)
async def test_what_stops_an_endpoint_changes_nothing_for_whoever_has_it_tried_again(
    fault: Fault, data: Path, one: Facts
) -> None:
    await assert_true_end_if_told_to_try_again(ONE, data, {fault: RATE}, one)


async def test_every_fault_there_is_together_at_30_percent_loses_no_task(data: Path) -> None:
    await assert_true_end_if_told_to_try_again(SMALL, data, evenly(list(Fault), RATE))


async def assert_nothing_is_decided(fault: Fault, data: Path) -> None:
    async with SimulationServer(ONE, behaviour=plan({fault: 1.0})) as server:
        summary = await run(ONE, data, server, deliveries=2)
    rollouts = summary.trajectories
    assert (rollouts.success, rollouts.failure, rollouts.open, rollouts.error) == (0, 0, 0, 1)
    assert sum(letter.deliveries for letter in summary.set_aside) == 1
    assert (summary.owed, summary.tasks_finished, summary.pairs) == (0, 0, 0)


@pytest.mark.parametrize("fault", LASTING)
async def test_a_fault_that_never_ends_decides_nothing_and_holds_nothing_up(fault: Fault, data: Path) -> None:
    await assert_nothing_is_decided(fault, data)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (*LASTING, *FILTERS)])
async def test_any_other_fault_that_never_ends_decides_nothing_and_holds_nothing_up(fault: Fault, data: Path) -> None:
    await assert_nothing_is_decided(fault, data)


async def test_a_filter_that_lets_no_reply_of_the_policy_through_makes_no_evidence(data: Path) -> None:
    behaviour = plan({Fault.CONTENT_FILTER: 1.0}, frozenset({"sim-policy"}))
    async with SimulationServer(ONE, behaviour=behaviour) as server:
        summary = await run(ONE, data, server, deliveries=2)
        assert_only_true_replies_count(data, ONE, server.record.entries, refusals=FILTERS)
    assert (summary.trajectories.success, summary.steps_scored, summary.pairs, summary.owed) == (0, 0, 0, 0)


async def test_a_refused_key_costs_few_requests_and_the_run_goes_on_once_it_is_taken(data: Path, one: Facts) -> None:
    events: list[Event] = []
    behaviour = plan({Fault.UNAUTHORIZED: 1.0}, frozenset({"sim-expert"}))
    async with SimulationServer(ONE, behaviour=behaviour) as server:
        summary = await run(ONE, data, server, deliveries=3, events=events)
        refused = [entry for entry in server.record.entries if entry.fault == Fault.UNAUTHORIZED]
        # Steps are examined side by side; what was on its way when the first refusal came is refused as well.
        assert 1 <= len(refused) <= 8
        assert summary.set_aside
        messages = {event.error.partition(" (")[0] for event in events if isinstance(event, DeliveryFailed)}
        assert all("the key was refused" in message for message in messages)
        server.behaviour = Behaviour()
        async with Database(data) as database:
            await database.write(partial(revive_deliveries, run=None))
        summary = await run(ONE, data, server, deliveries=3)
    assert (summary.tasks_finished, summary.set_aside) == (summary.tasks, [])
    assert facts_of(data).differences(one) == []


async def test_a_refused_key_leaves_the_queue_as_it_is(data: Path) -> None:
    events: list[Event] = []
    async with SimulationServer(LARGE, behaviour=plan({Fault.UNAUTHORIZED: 1.0})) as server:
        summary = await run(LARGE, data, server, deliveries=3, events=events, run__rollouts=2)
        asked = len(server.record.entries)
    failed = [event for event in events if isinstance(event, DeliveryFailed)]
    assert 1 <= len(failed) == asked <= 2
    assert all(event.dead for event in failed)
    assert summary.owed == summary.tasks - len(failed)
    assert summary.put_off == 0


async def test_a_daemon_goes_on_when_told_to_try_again_once_the_key_is_taken(data: Path, one: Facts) -> None:
    behaviour = plan({Fault.UNAUTHORIZED: 1.0}, frozenset({"sim-expert"}))
    async with SimulationServer(ONE, behaviour=behaviour) as server, at_work(ONE, data, server) as (daemon, seen):
        await seen.until(DeliveryFailed, 1)
        assert daemon.endpoints["expert"].snapshot().stopped
        server.behaviour = Behaviour()
        assert await daemon.control.retry() == 1
        await seen.until(TaskFinished, 1)
        assert not daemon.endpoints["expert"].snapshot().stopped
        assert seen.count(DeliveryFailed) == 1
    assert facts_of(data).differences(one) == []


async def test_a_daemon_that_reads_its_configuration_anew_tries_a_refused_key(data: Path) -> None:
    async with (
        SimulationServer(LARGE, behaviour=plan({Fault.UNAUTHORIZED: 1.0})) as server,
        at_work(LARGE, data, server, run__rollouts=1) as (daemon, seen),
    ):
        await seen.until(DeliveryFailed, 1)
        server.behaviour = Behaviour()
        await apply_settings(daemon, daemon.settings, {})
        await seen.until(TaskFinished, 1)


async def test_a_daemon_goes_on_by_itself_once_the_key_is_taken(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.models.stop._FIRST_PAUSE", 0.01)
    behaviour = plan({Fault.UNAUTHORIZED: 1.0})
    async with (
        SimulationServer(LARGE, behaviour=behaviour) as server,
        at_work(LARGE, data, server, run__rollouts=1) as (daemon, seen),
    ):
        await seen.until(DeliveryFailed, 1)
        server.behaviour = Behaviour()
        # What was refused waits for `cso retry`; about the other tasks nobody has been asked yet.
        await seen.until(TaskFinished, 1)
        assert not daemon.endpoints["policy"].snapshot().stopped


@pytest.mark.slow
@pytest.mark.parametrize("fault", NOT_REACTED_TO)
async def test_a_fault_at_30_percent_of_calls_of_a_larger_run(fault: Fault, data: Path, large: Facts) -> None:
    await assert_true_end(LARGE, data, {fault: RATE}, large)


@pytest.mark.slow
@pytest.mark.parametrize("fault", REACTED_TO)
async def test_refusals_at_30_percent_of_calls_of_a_larger_run(fault: Fault, data: Path) -> None:
    await assert_true_end(LARGE, data, {fault: RATE})


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
async def test_all_faults_together_at_60_percent(number: int, data: Path) -> None:
    world = World.generate(100 + number, 6)
    await assert_true_end(world, data, evenly(PASSING, 0.6))
