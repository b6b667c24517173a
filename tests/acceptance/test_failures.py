"""Trouble with endpoints and sandboxes is retried and told of; it never decides an outcome and never makes a pair."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from runtime.simulation.behaviour import Behaviour
from runtime.simulation.faults import Fault, FaultPlan
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.standins import Standins
from runtime.simulation.world import World, write_tasks
from store.database import Reader
from store.events import BranchCompleted, CallCompleted, DeliveryFailed, Event, StepCompleted, StepScored
from store.summary import Outcomes, Summary
from tests.acceptance.facts import Facts, facts_of
from tests.acceptance.programs import cso
from tests.acceptance.running import finished_run, records_of, settings_for, work
from tests.acceptance.scripted import Ask, Said, Script, from_world, play, scripted_models
from tests.crash.processes import descendants
from tests.folders import reachable_folder

WORLD = World.generate(7, 6)
DOWN = Behaviour(faults=FaultPlan(rates={Fault.SERVER_ERROR: 1.0}))


@pytest.fixture(scope="module")
async def untroubled() -> AsyncIterator[Facts]:
    with reachable_folder() as folder:
        async with finished_run(WORLD, folder / "data"):
            yield facts_of(folder / "data")


async def troubled(data: Path, server: SimulationServer, watcher: Callable[[Event], None]) -> Summary:
    settings = settings_for(server.base_url, data, {"bus.attempts": 100})
    return await work(settings, records_of(WORLD, data), search=WorldSearch(WORLD), watchers=[watcher])


async def test_an_endpoint_that_is_down_for_a_while_changes_no_outcome(untroubled: Facts, data: Path) -> None:
    """Three outages, each until the stage that is busy then has failed twice."""
    outages: dict[type[Event], str] = {StepCompleted: "collect", StepScored: "resample", BranchCompleted: "verify"}
    waiting: dict[str, int] = {}
    failed: list[str] = []
    async with SimulationServer(WORLD) as server:

        def note(event: Event) -> None:
            if isinstance(event, DeliveryFailed):
                assert not event.dead
                failed.append(event.handler)
                if event.handler in waiting:
                    waiting[event.handler] -= 1
                if all(count <= 0 for count in waiting.values()):
                    server.behaviour = Behaviour()
            elif type(event) in outages:
                waiting[outages.pop(type(event))] = 2
                server.behaviour = DOWN

        summary = await troubled(data, server, note)
    assert not outages
    assert set(failed) == {"collect", "resample", "verify"}
    assert summary.trajectories.error == summary.branches.error == 0
    assert facts_of(data).differences(untroubled) == []


async def test_a_sandbox_that_is_killed_changes_no_outcome(untroubled: Facts, data: Path) -> None:
    """It is killed just after actions were chosen, when code is about to run, until that has hit some."""
    killed: list[int] = []
    failures: list[str] = []
    timers: list[asyncio.TimerHandle] = []
    async with SimulationServer(WORLD) as server:

        def note(event: Event) -> None:
            if isinstance(event, DeliveryFailed):
                failures.append(event.error)
            elif isinstance(event, CallCompleted) and event.module == "action" and (len(timers) < 4 or not failures):
                delay = 0.005 * (len(timers) % 3)
                timers.append(asyncio.get_running_loop().call_later(delay, lambda: killed.append(kill_sandbox())))

        summary = await troubled(data, server, note)
    assert sum(killed) > 0
    assert failures
    assert all("the sandbox" in failure for failure in failures)
    assert summary.trajectories.error == summary.branches.error == 0
    assert facts_of(data).differences(untroubled) == []


def kill_sandbox() -> int:
    """Kill all processes of the sandbox of this process; how many they were."""
    found = 0
    for process in descendants(os.getpid()):
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if b"CSO_SANDBOX=" in environment:
            os.kill(process.pid, signal.SIGKILL)
            found += 1
    return found


async def test_branches_whose_endpoint_fails_are_set_aside_as_errors_and_make_no_pair(data: Path) -> None:
    """The policy's endpoint breaks down for branches alone; everything else is answered as the world does."""
    usual = from_world(Standins(WORLD))

    async def answer(ask: Ask) -> Said:
        return 500 if ask.in_branch and ask.role == "policy" else await usual(ask)

    async with scripted_models(answer) as models:
        settings = settings_for(models.url, data, {"bus.attempts": 2})
        summary = await work(settings, records_of(WORLD, data), search=WorldSearch(WORLD))
    assert summary.branches.error > 3
    assert summary.trajectories.failure > 0
    # An alternative that ends the run at once needs the policy for the final result, so no branch gets through.
    assert summary.branches == Outcomes(error=summary.branches.error)
    assert summary.pairs == 0
    assert {letter.handler for letter in summary.set_aside} == {"verify"}
    assert sum(letter.deliveries for letter in summary.set_aside) == summary.critical_candidates


async def test_one_failing_branch_of_several_leaves_the_step_undecided(data: Path) -> None:
    """Of three rollouts of an alternative one fails for ever: two successes are no evidence for three."""
    script = Script(
        actions=("print('policy')", "stop('wrong', '')"),
        alternatives={0: ("stop('42', 'better')",)},
        scores={"print('policy')": "Score: 0.1", "better": "Score: 0.9"},
    )

    async def answer(ask: Ask) -> str | int:
        return 503 if ask.trajectory.endswith("@0.1.2") else await script.answer(ask)

    played = await play(
        answer,
        data,
        changes={"verify.rollouts": 3, "resample.alternatives": 1, "bus.attempts": 2},
    )
    assert played.summary.branches == Outcomes(success=2, error=1)
    assert played.summary.pairs == 0
    assert sum(isinstance(event, BranchCompleted) for event in played.events) == 2


async def test_a_command_whose_endpoint_is_broken_for_good_ends_with_status_1_and_says_what_it_set_aside(
    data: Path, tmp_path: Path
) -> None:
    broken = Behaviour(faults=FaultPlan(rates={Fault.SERVER_ERROR: 1.0}, models=frozenset({"sim-expert"})))
    environ = {"CSO_BUS__DELAY": "0.01", "CSO_BUS__MAX_DELAY": "0.05", "CSO_BUS__ATTEMPTS": "2"}
    async with SimulationServer(WORLD, behaviour=broken) as server:
        for role in ("POLICY", "EXPERT", "PRM"):
            environ |= {
                f"CSO_MODELS__{role}__BASE_URL": server.base_url,
                f"CSO_MODELS__{role}__MODEL": f"sim-{role.lower()}",
                f"CSO_MODELS__{role}__ATTEMPTS": "1",
            }
        tasks = await anyio.to_thread.run_sync(write_tasks, WORLD, tmp_path)
        ran = await cso("run", tasks, "--data", data, "--json", environ=environ)
    assert ran.status == 1
    assert "set aside" in ran.said
    assert ran.json["pairs"] == ran.json["branches"]["success"] == 0
    assert ran.json["trajectories"]["error"] == 0
    assert {letter["handler"] for letter in ran.json["set_aside"]} == {"resample"}
    async with Reader(data) as reader:
        (row,) = await reader.fetch("SELECT count(*) AS n FROM candidates WHERE ordinal > 0")
    assert row["n"] == 0
