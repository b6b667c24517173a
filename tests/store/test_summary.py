"""The summary of a run: every number counted from what is stored, and of this run alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from store.database import Database
from store.deliveries import Delivery, fail_delivery
from store.events import TaskSubmitted
from store.pairs import Evidence, add_pair
from store.runs import Run
from store.summary import DeadLetter, Outcomes, summarise
from store.trajectories import Fork
from tests.store.filling import new_call, new_run, new_trajectory, score_step


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(tmp_path, subscriptions={"task-submitted": ["collect"]}) as opened:
        yield opened


async def test_a_run_that_has_not_begun_is_all_zeros(database: Database) -> None:
    summary = await summarise(database, await new_run(database, tasks=()))
    assert (summary.tasks, summary.tasks_finished, summary.pairs, summary.owed) == (0, 0, 0, 0)
    assert summary.trajectories == summary.branches == summary.controls == Outcomes()
    assert summary.supervised_share is None
    assert (summary.calls, summary.tokens) == ({}, {})


async def test_rollouts_are_counted_by_sort_and_outcome(database: Database) -> None:
    run = await new_run(database, tasks=("a", "b", "c"))
    failed = await new_trajectory(database, task=1, steps=2, outcome="failure")
    await new_trajectory(database, task=2, outcome="success")
    await new_trajectory(database, task=3, outcome="error")
    await new_trajectory(database, task=3, ordinal=1)
    own, alternative = await score_step(database, failed, 1, [0.1, 0.9])
    taken = Fork(parent=failed, step=1, candidate=alternative)
    await new_trajectory(database, fork=taken, ordinal=0, outcome="success")
    await new_trajectory(database, fork=taken, ordinal=1, outcome="error")
    await new_trajectory(database, fork=Fork(parent=failed, step=1, candidate=own), outcome="failure")
    summary = await summarise(database, run)
    assert summary.trajectories == Outcomes(success=1, failure=1, error=1, open=1)
    assert summary.branches == Outcomes(success=1, error=1)
    assert summary.controls == Outcomes(failure=1)


async def test_steps_count_as_scored_unscored_and_critical_by_the_runs_own_thresholds(database: Database) -> None:
    run = await new_run(database)
    failed = await new_trajectory(database, steps=6, outcome="failure")
    await score_step(database, failed, 0, [0.8])
    await score_step(database, failed, 1, [None])
    await score_step(database, failed, 2, [0.49, 0.61])  # critical
    await score_step(database, failed, 3, [0.5, 0.9])  # not below
    await score_step(database, failed, 4, [0.1, 0.6, None])  # not above
    summary = await summarise(database, run)
    assert (summary.steps_scored, summary.steps_unscored, summary.critical_candidates) == (4, 1, 1)
    assert summary.failed_steps == 6


async def pair_at(database: Database, run: Run, trajectory: int, step: int, candidate: int) -> None:
    evidence = Evidence(successes=1, rollouts=1, control_successes=0, controls=0)
    add = partial(
        add_pair, run=run.id, task=1, trajectory=trajectory, step=step, candidate=candidate, evidence=evidence
    )
    await database.write(add)


async def test_the_supervised_share_counts_steps_and_not_pairs(database: Database) -> None:
    run = await new_run(database)
    failed = await new_trajectory(database, steps=4, outcome="failure")
    _, first, second = await score_step(database, failed, 1, [0.1, 0.9, 0.8])
    for candidate in (first, second, second):  # the last one is there already
        await pair_at(database, run, failed, 1, candidate)
    summary = await summarise(database, run)
    assert (summary.pairs, summary.supervised_share) == (2, 0.25)


async def test_calls_and_tokens_are_counted_by_role(database: Database) -> None:
    run = await new_run(database)
    failed = await new_trajectory(database, outcome="failure")
    for step, role, tokens in ((0, "policy", 10), (1, "policy", 20), (0, "prm", 5)):
        await new_call(database, failed, step=step, role=role, tokens=tokens)
    summary = await summarise(database, run)
    assert summary.calls == {"policy": 2, "prm": 1}
    assert summary.tokens == {"policy": 32, "prm": 6}


async def test_what_is_owed_put_off_and_set_aside_is_told_apart_and_grouped_by_cause(database: Database) -> None:
    run = await new_run(database, tasks=("a", "b", "c", "d"))
    rows = await database.fetch("SELECT seq, task FROM events WHERE kind = 'task-submitted' ORDER BY seq")
    submitted = [TaskSubmitted(run=run.id, task=row["task"], seq=row["seq"]) for row in rows]
    for event, due in zip(submitted[:3], (None, None, 2**60), strict=True):
        fail = partial(fail_delivery, delivery=Delivery("collect", event), error="down", due=due)
        await database.write(fail)
    summary = await summarise(database, run)
    assert (summary.owed, summary.put_off) == (2, 1)
    assert summary.set_aside == [DeadLetter(handler="collect", cause="down", error="down", deliveries=2)]


async def test_another_run_in_the_same_directory_does_not_count(database: Database) -> None:
    mine = await new_run(database, "mine", tasks=("a",))
    theirs = await new_run(database, "theirs", tasks=("a", "b"))
    failed = await new_trajectory(database, task=2, steps=3, outcome="failure")
    _, candidate = await score_step(database, failed, 0, [0.1, 0.9])
    await pair_at(database, theirs, failed, 0, candidate)
    own, other = await summarise(database, mine), await summarise(database, theirs)
    assert (own.tasks, own.owed, own.pairs, own.failed_steps, own.calls) == (1, 1, 0, 0, {})
    assert (other.tasks, other.owed, other.pairs, other.failed_steps) == (2, 2, 1, 3)


async def test_the_summary_is_plain_json(database: Database) -> None:
    found = (await summarise(database, await new_run(database))).as_json()
    assert found["trajectories"] == {"success": 0, "failure": 0, "error": 0, "open": 0}
    assert found["set_aside"] == []
