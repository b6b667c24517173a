"""A run on several replicas of its policy: who is asked, and what is left when one of them breaks down."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import orjson
import pytest

from runtime.api.live import Live, live_status
from runtime.cli.live import daemon_rows
from runtime.config.settings import Settings
from runtime.daemon import open_daemon
from runtime.models.chat import ChatRequest
from runtime.models.errors import ModelError
from runtime.simulation.behaviour import Behaviour
from runtime.simulation.faults import Fault, FaultPlan
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.messages import Message
from store.summary import Summary
from tests.acceptance.facts import Facts, facts_of
from tests.acceptance.running import records_of, settings_for, work
from tests.folders import reachable_folder

WORLD = World.generate(5, 4)
BROKEN = Behaviour(faults=FaultPlan(rates={Fault.RESET_BEFORE: 1.0}, models=frozenset({"sim-policy"})))


def settings(data: Path, servers: list[SimulationServer]) -> Settings:
    """Settings of a run whose policy has a replica at each server."""
    changes: dict[str, object] = {"models.policy.attempts": 4, "models.policy.backoff": 0.005}
    if len(servers) > 1:
        changes["models.policy.base_url"] = [server.base_url for server in servers]
    return settings_for(servers[0].base_url, data, changes)


async def run(data: Path, servers: list[SimulationServer]) -> Summary:
    return await work(settings(data, servers), records_of(WORLD, data), search=WorldSearch(WORLD))


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
    async with SimulationServer(WORLD) as well, SimulationServer(WORLD, behaviour=BROKEN) as ill:
        summary = await run(data, [well, ill])
        in_vain = [entry for entry in ill.record.entries if entry.role == "policy"]
    assert (summary.tasks_finished, summary.set_aside) == (summary.tasks, [])
    assert len(in_vain) < summary.calls["policy"] / 4
    assert facts_of(data).differences(alone) == []


async def test_status_tells_of_each_replica_and_of_one_that_is_left_alone(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.models.pool._FIRST_ABSENCE", 60.0)
    request = ChatRequest(model="sim-policy", messages=(Message("user", "hello"),))
    async with (
        SimulationServer(WORLD) as well,
        SimulationServer(WORLD, behaviour=BROKEN) as ill,
        open_daemon(settings(data, [well, ill]), {}) as daemon,
    ):
        addresses = [server.root_url.removeprefix("http://") for server in (well, ill)]
        with anyio.fail_after(30):
            for number in range(64):
                with contextlib.suppress(ModelError):  # the stand-in knows of no such task
                    await daemon.endpoints["policy"].complete(request, headers={}, affinity=str(number))
        status = orjson.loads(orjson.dumps(await live_status(Live(daemon=daemon))))
        rows = dict(daemon_rows({**status, "url": "http://there"}))
    assert [replica["address"] for replica in status["endpoints"]["policy"]["replicas"]] == addresses
    assert "replicas" not in status["endpoints"]["expert"]
    assert "left alone" not in rows[f"  {addresses[0]}"]
    assert rows[f"  {addresses[1]}"].startswith("failed repeatedly, left alone for ")
