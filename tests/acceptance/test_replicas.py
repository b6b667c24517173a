"""A run on several replicas of its policy: who is asked, and what is left when one of them breaks down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.simulation.behaviour import Behaviour
from runtime.simulation.faults import Fault, FaultPlan
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.summary import Summary
from tests.acceptance.facts import Facts, facts_of
from tests.acceptance.running import records_of, settings_for, work
from tests.folders import reachable_folder

WORLD = World.generate(5, 4)


async def run(data: Path, servers: list[SimulationServer]) -> Summary:
    """Work on the world with a policy that has a replica at each server."""
    changes: dict[str, object] = {"models.policy.attempts": 4, "models.policy.backoff": 0.005}
    if len(servers) > 1:
        changes["models.policy.base_url"] = [server.base_url for server in servers]
    settings = settings_for(servers[0].base_url, data, changes)
    return await work(settings, records_of(WORLD, data), search=WorldSearch(WORLD))


@pytest.fixture(scope="module")
async def alone() -> AsyncIterator[Facts]:
    """What the same work leaves with one server."""
    with reachable_folder() as folder:
        async with SimulationServer(WORLD) as server:
            await run(folder / "data", [server])
        yield facts_of(folder / "data")


async def test_a_trajectory_and_its_branches_are_asked_about_at_one_replica(data: Path, alone: Facts) -> None:
    async with SimulationServer(WORLD) as one, SimulationServer(WORLD) as other:
        summary = await run(data, [one, other])
        homes: defaultdict[str, set[int]] = defaultdict(set)
        labels = set()
        for number, server in enumerate((one, other)):
            for entry in server.record.entries:
                if entry.role == "policy":
                    label = entry.headers["trajectory"]
                    labels.add(label)
                    homes[label.partition("@")[0]].add(number)
    assert summary.tasks_finished == summary.tasks
    assert any("@" in label for label in labels)
    assert [root for root, at in homes.items() if len(at) > 1] == []
    assert facts_of(data).differences(alone) == []


async def test_a_replica_that_breaks_down_leaves_a_run_as_it_is(data: Path, alone: Facts) -> None:
    broken = Behaviour(faults=FaultPlan(rates={Fault.RESET_BEFORE: 1.0}, models=frozenset({"sim-policy"})))
    async with SimulationServer(WORLD) as well, SimulationServer(WORLD, behaviour=broken) as ill:
        summary = await run(data, [well, ill])
        in_vain = [entry for entry in ill.record.entries if entry.role == "policy"]
    assert (summary.tasks_finished, summary.set_aside) == (summary.tasks, [])
    assert len(in_vain) < summary.calls["policy"] / 4
    assert facts_of(data).differences(alone) == []
