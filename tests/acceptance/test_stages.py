"""The stages of the method work side by side, and what they find is what is true of the world."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from runtime.simulation.behaviour import Behaviour
from runtime.simulation.standins import Habits
from runtime.simulation.world import World, WorldScore, score_pairs
from store.database import Reader
from store.events import PairVerified, StepScored, TaskFinished, TrajectoryCompleted
from store.export import load_pairs
from store.runs import list_runs
from tests.acceptance.conftest import LIMITS
from tests.acceptance.running import Finished, finished_run


async def score(done: Finished) -> WorldScore:
    """The verified steps against the world's critical ones."""
    async with Reader(done.data) as reader:
        (run,) = await list_runs(reader)
        return score_pairs(done.world, [(pair.task, pair.step) async for pair in load_pairs(reader, run)])


async def test_the_first_pair_is_made_while_tasks_are_still_being_collected(finished: Finished) -> None:
    pairs = [event.seq for event in finished.events if isinstance(event, PairVerified)]
    collected = [event.seq for event in finished.events if isinstance(event, TrajectoryCompleted)]
    assert pairs[0] < collected[-1]


async def test_steps_are_scored_while_tasks_are_still_being_collected(finished: Finished) -> None:
    scored = [event.seq for event in finished.events if isinstance(event, StepScored)]
    collected = [event.seq for event in finished.events if isinstance(event, TrajectoryCompleted)]
    assert scored[0] < collected[1]


async def test_every_task_is_finished_exactly_once_and_last_of_all_that_is_told_of_it(finished: Finished) -> None:
    ends = {event.task: event.seq for event in finished.events if isinstance(event, TaskFinished)}
    assert len(ends) == len([event for event in finished.events if isinstance(event, TaskFinished)]) == 12
    assert all(event.seq <= ends[event.task] for event in finished.events if event.task is not None)


async def test_rollouts_run_side_by_side_up_to_their_limits_and_the_server_sees_it(finished: Finished) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{finished.server.root_url}/sim/stats", timeout=aiohttp.ClientTimeout(10)) as response,
    ):
        most = (await response.json())["max_in_flight"]
    assert most["policy"] == LIMITS["run.rollouts"]
    assert most["prm"] == LIMITS["models.prm.max_in_flight"]
    assert 1 < most["expert"] <= 4
    assert most["all"] > most["policy"]


async def test_with_a_perfect_prm_the_verified_steps_are_the_critical_ones(finished: Finished) -> None:
    found = await score(finished)
    assert found.critical > 3
    assert (found.precision, found.recall) == (1.0, 1.0)


@pytest.mark.parametrize("seed", [3, 101])
async def test_with_a_perfect_prm_other_worlds_are_found_out_too(seed: int, data: Path) -> None:
    async with finished_run(World.generate(seed, 10), data) as done:
        found = await score(done)
    assert found.critical > 2
    assert (found.precision, found.recall) == (1.0, 1.0)


async def test_what_a_prm_wrongly_takes_for_critical_is_refuted(finished: Finished, data: Path) -> None:
    async with finished_run(
        finished.world, data, habits=Habits(prm_noise=0.5), behaviour=Behaviour(latency=0.001)
    ) as noisy:
        found = await score(noisy)
    assert noisy.summary.critical_candidates > finished.summary.critical_candidates + 10
    assert noisy.summary.branches.failure > finished.summary.branches.failure + 10
    assert (found.precision, found.recall) == (1.0, 1.0)


async def test_the_summary_counts_what_the_server_and_the_events_saw(finished: Finished) -> None:
    summary, traffic = finished.summary, finished.server.record.traffic
    outcomes = [event.outcome for event in finished.events if isinstance(event, TrajectoryCompleted)]
    assert summary.tasks == summary.tasks_finished == 12
    assert (summary.trajectories.success, summary.trajectories.failure) == (
        outcomes.count("success"),
        outcomes.count("failure"),
    )
    assert summary.calls == {role: traffic.calls[role] for role in ("expert", "policy", "prm")}
    assert summary.pairs == sum(isinstance(event, PairVerified) for event in finished.events)
    assert summary.steps_scored == summary.failed_steps
    assert summary.owed == 0
    assert summary.set_aside == []
