"""An endpoint wants to be left alone for longer than a call may wait: work waits, nothing fails, nothing is lost."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import anyio
import pytest

from runtime.api.live import Live
from runtime.config.settings import Settings
from runtime.daemon import Daemon
from runtime.reload import apply_settings
from runtime.serve import describe
from runtime.simulation.behaviour import Behaviour
from runtime.simulation.faults import Fault, FaultPlan
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World, write_tasks
from store.events import DeliveryFailed, Event, TaskFinished
from store.summary import Summary, summarise
from tests.acceptance.daemons import environ_for, serve
from tests.acceptance.facts import Facts, facts_of
from tests.acceptance.programs import cso
from tests.acceptance.running import ROLES, Seen, daemon_at_work, records_of, settings_for, work
from tests.folders import reachable_folder

ONE, LARGE = World.generate(7, 1), World.generate(5, 10)
HOURS_S = 4 * 3600.0  # well within the default of bus.max_time, since later calls are told a later end

PATIENT = {"attempts": 4, "backoff": 0.01, "backoff_max": 0.02}  # of an endpoint that loses its connection


def pausing(model: str, *, seconds: float = HOURS_S, attempts: int | None = None) -> Behaviour:
    """A model that answers nothing but that it wants to be left alone; with `attempts` only that often."""
    rates, models = {Fault.RATE_LIMIT_SECONDS: 1.0}, frozenset({model})
    return Behaviour(faults=FaultPlan(rates=rates, models=models, retry_after=seconds, attempts=attempts))


def settings(server: SimulationServer, data: Path, *, deadline: float = 30.0, **more: object) -> Settings:
    """Settings of a run; `run__rollouts` stands for `run.rollouts`."""
    changes = {name.replace("__", "."): value for name, value in more.items()}
    for role in ROLES:
        changes |= {f"models.{role}.timeout": deadline, f"models.{role}.deadline": deadline}
    return settings_for(server.base_url, data, changes)


@pytest.fixture(scope="module")
async def one() -> Facts:
    """What the work on one task leaves without a pause."""
    with reachable_folder() as folder:
        async with SimulationServer(ONE) as server:
            await work(settings(server, folder / "data"), records_of(ONE, folder), search=WorldSearch(ONE))
        return facts_of(folder / "data")


async def all_wait(daemon: Daemon, role: str) -> None:
    """Wait until an endpoint wants to be left alone and nobody works."""
    while not daemon.endpoints[role].snapshot().stopped or daemon.bus.at_work:  # noqa: ASYNC110 - not events of one thing
        await anyio.sleep(0.01)


def assert_all_is_owed(summary: Summary, seen: Seen) -> None:
    assert seen.count(DeliveryFailed) == 0
    assert (summary.set_aside, summary.put_off) == ([], 0)
    assert summary.owed >= summary.tasks - summary.tasks_finished > 0
    assert summary.trajectories.error == 0


async def test_a_pause_of_hours_counts_no_failure_and_whoever_says_retry_ends_it(data: Path, one: Facts) -> None:
    async with (
        SimulationServer(ONE, behaviour=pausing("sim-expert")) as server,
        daemon_at_work(settings(server, data), ONE) as (daemon, seen),
    ):
        for number in (1, 2):
            await all_wait(daemon, "expert")
            assert_all_is_owed(await summarise(daemon.database, daemon.run), seen)
            assert describe(Live(daemon=daemon)).startswith("waiting: expert: it wants to be left alone until ")
            assert len([entry for entry in server.record.entries if entry.fault]) <= 8 * number
            if number == 2:
                server.behaviour = Behaviour()
            assert await daemon.control.retry() == 0
        await seen.until(TaskFinished, 1)
        assert seen.count(DeliveryFailed) == 0
    assert facts_of(data).differences(one) == []


async def test_a_daemon_that_reads_its_configuration_anew_asks_at_once(data: Path) -> None:
    async with (
        SimulationServer(LARGE, behaviour=pausing("sim-policy")) as server,
        daemon_at_work(settings(server, data, run__rollouts=2), LARGE) as (daemon, seen),
    ):
        await all_wait(daemon, "policy")
        assert_all_is_owed(await summarise(daemon.database, daemon.run), seen)
        server.behaviour = Behaviour()
        await apply_settings(daemon, daemon.settings, {})
        await seen.until(TaskFinished, len(LARGE.tasks))
        assert seen.count(DeliveryFailed) == 0


async def test_a_run_waits_for_the_end_of_a_pause_and_then_goes_on_to_its_own(data: Path, one: Facts) -> None:
    events: list[Event] = []
    behaviour = pausing("sim-expert", seconds=0.6, attempts=1)
    async with SimulationServer(ONE, behaviour=behaviour) as server:
        chosen = settings(server, data, deadline=0.5, bus__attempts=1)
        summary = await work(chosen, records_of(ONE, data), search=WorldSearch(ONE), watchers=[events.append])
        assert any(entry.fault for entry in server.record.entries)
    assert (summary.tasks_finished, summary.owed, summary.set_aside) == (1, 0, [])
    assert not [event for event in events if isinstance(event, DeliveryFailed)]
    assert facts_of(data).differences(one) == []


async def test_a_pause_beyond_the_longest_time_sets_aside_what_met_it_and_holds_the_rest(data: Path) -> None:
    async with SimulationServer(LARGE, behaviour=pausing("sim-policy")) as server:
        chosen = settings(server, data, run__rollouts=2, bus__max_time=HOURS_S - 1)
        summary = await work(chosen, records_of(LARGE, data), search=WorldSearch(LARGE))
        asked = len(server.record.entries)
    (letter,) = summary.set_aside
    assert "bus.max_time is too short for this: endpoint policy: it wants to be left alone until" in letter.error
    assert 1 <= letter.deliveries == asked <= 2
    assert summary.owed == summary.tasks - letter.deliveries


async def waits_for_what_is_gone(daemon: Daemon, seen: Seen) -> None:
    """Wait until the run is held because an endpoint cannot be reached; nothing has failed."""
    while not daemon.bus.held or daemon.bus.at_work:  # noqa: ASYNC110 - not events of one thing
        await anyio.sleep(0.01)
    assert_all_is_owed(await summarise(daemon.database, daemon.run), seen)
    assert re.search(r"^waiting: \w+: cannot be reached since \d\d:\d\d: conn", describe(Live(daemon=daemon)))


async def test_an_endpoint_that_goes_away_and_comes_back_costs_nothing_but_the_wait(data: Path) -> None:
    with reachable_folder() as folder:
        async with SimulationServer(LARGE) as server:
            chosen = settings(server, folder / "data")
            await work(chosen, records_of(LARGE, folder), search=WorldSearch(LARGE))
        undisturbed = facts_of(folder / "data")
    async with SimulationServer(LARGE) as server:
        port = int(server.root_url.rpartition(":")[2])
        patience = {f"models__{role}__{key}": value for role in ROLES for key, value in PATIENT.items()}
        chosen = settings(server, data, run__rollouts=2, bus__attempts=1, **patience)
        async with daemon_at_work(chosen, LARGE) as (daemon, seen):
            await seen.until(TaskFinished, 1)  # by now each role has replied
            await server.__aexit__(None, None, None)
            await waits_for_what_is_gone(daemon, seen)
            finished = seen.count(TaskFinished)
        # A machine that starts anew may be ready before the server that it asks.
        async with daemon_at_work(chosen, LARGE) as (daemon, seen):
            await waits_for_what_is_gone(daemon, seen)
            async with SimulationServer(LARGE, port=port) as again:
                assert await daemon.control.retry() == 0
                await seen.until(TaskFinished, len(LARGE.tasks) - finished)
                assert seen.count(DeliveryFailed) == 0
                answered = {entry.digest for entry in server.record.entries if entry.status == 200}
                assert not answered & {entry.digest for entry in again.record.entries}, "nothing is bought twice"
    assert facts_of(data).differences(undisturbed) == []


async def test_a_daemon_that_is_killed_in_a_pause_loses_nothing_and_status_says_what_it_waits_for(
    data: Path, one: Facts
) -> None:
    tasks = write_tasks(ONE, data.parent / "tasks")
    async with SimulationServer(ONE, behaviour=pausing("sim-expert")) as server:
        environ = environ_for(server.base_url, data) | {"CSO_RUN__NAME": "test"}
        async with serve(environ=environ) as daemon:
            await daemon.said("ready")
            assert (await cso("submit", tasks, environ=environ)).status == 0
            began = f"the expert endpoint at {server.base_url} wants to be left alone until "
            line = await daemon.said_that(began)
            assert "rate limited" in line["event"]
            rows = (await cso("status", environ=environ)).output
            assert "expert endpoint" in rows
            assert "wants to be left alone until" in rows
            seen = (await cso("status", "--json", environ=environ)).json
            assert seen["daemon"]["endpoints"]["expert"]["until"] > seen["daemon"]["started"] + HOURS_S - 60
            daemon.send(signal.SIGKILL)
            assert await daemon.ended() == -signal.SIGKILL
        assert not [line for line in daemon.lines if line.get("event") in ("work put off", "work set aside")]
        before = len(server.record.entries)
        async with serve(environ=environ) as daemon:
            await daemon.said("work resumed")
            await daemon.said_that(began)
            asked = server.record.entries[before:]
            assert {entry.fault for entry in asked} == {Fault.RATE_LIMIT_SECONDS}, (
                "what was answered is not asked again"
            )
            server.behaviour = Behaviour()
            daemon.send(signal.SIGHUP)
            await daemon.said("task finished")
            await daemon.said(f"the expert endpoint at {server.base_url} answers again")
            daemon.send(signal.SIGTERM)
            assert await daemon.ended() == 0
    assert facts_of(data).differences(one) == []
