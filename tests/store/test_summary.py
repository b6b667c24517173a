"""The summary of a run: every number counted from what is stored, and of this run alone."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from store.database import Database, View
from store.deliveries import Delivery, cancel_deliveries, fail_delivery
from store.events import TaskSubmitted
from store.pairs import Evidence, add_pair
from store.runs import Run
from store.spending import Bought, count_bought
from store.summary import DeadLetter, Outcomes, summarise
from store.trajectories import Fork
from store.transaction import SqlValues
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


async def test_what_was_bought_is_the_sum_of_the_journal_by_role_and_stage(database: Database) -> None:
    run, other = await new_run(database), await new_run(database, "other")
    failed = await new_trajectory(database, steps=2, outcome="failure")
    elsewhere = await new_trajectory(database, task=2)
    _, alternative = await score_step(database, failed, 1, [0.1, 0.9])
    branch = await new_trajectory(database, fork=Fork(parent=failed, step=1, candidate=alternative))
    for trajectory, role, cost in (
        (failed, "prm", 5),
        (failed, "expert", None),
        (branch, "policy", 7),
        (branch, "policy", None),
        (branch, "judge", None),
        (elsewhere, "policy", 100),
    ):
        await new_call(database, trajectory, step=7 + (cost or 0), role=role, cost=cost)
    await new_call(database, branch, step=14, role="policy", cost=7)  # again: it is there already
    found = {(one.role, one.stage): one for one in (await summarise(database, run)).spending}
    assert {place: (one.calls, one.tokens, one.cost, one.unpriced) for place, one in found.items()} == {
        ("expert", "resample"): (1, 11, None, 1),
        ("judge", "verify"): (1, 11, None, 1),
        ("policy", "collect"): (2, 22, None, 2),
        ("policy", "verify"): (2, 22, 7e-6, 1),
        ("prm", "resample"): (1, 11, 5e-6, 0),
    }
    assert [one.cost for one in (await summarise(database, other)).spending] == [1e-4]
    bought = await count_bought(database)
    assert bought.runs == {run.id: Bought(7, 77, 12), other.id: Bought(1, 11, 100)}
    assert bought.tasks == bought.runs  # each has one task, of which something is owed
    await database.write(lambda transaction: transaction.execute("DELETE FROM deliveries"))
    assert (await count_bought(database)).tasks == {}


async def test_counting_a_run_walks_through_neither_events_nor_calls(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plans = await new_run(database), list[str]()
    fetch = View.fetch

    async def explain(view: View, sql: str, values: SqlValues = ()) -> list[sqlite3.Row]:
        plans.extend(row["detail"] for row in await fetch(view, f"EXPLAIN QUERY PLAN {sql}", values))
        return await fetch(view, sql, values)

    monkeypatch.setattr(View, "fetch", explain)
    await summarise(database, run)
    await count_bought(database)
    assert [plan for plan in plans if "events_" in plan]
    assert not [plan for plan in plans if re.match(r"SCAN (events|calls|c|e)\b(?! USING .*INDEX events_)", plan)]


async def test_a_summary_is_of_one_moment_and_says_of_which(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fetch = await new_run(database), View.fetch

    async def meanwhile(view: View, sql: str, values: SqlValues = ()) -> list[sqlite3.Row]:
        rows = await fetch(view, sql, values)
        await database.write(lambda transaction: transaction.publish(TaskSubmitted(run=run.id, task=1)))
        return rows

    before = (await summarise(database, run)).newest
    monkeypatch.setattr(View, "fetch", meanwhile)
    summary = await summarise(database, run)
    assert (summary.newest, summary.owed) == (before, 1)
    monkeypatch.undo()
    assert (await summarise(database, run)).owed > 1


async def test_what_is_owed_put_off_and_set_aside_is_told_apart_and_grouped_by_cause(database: Database) -> None:
    run = await new_run(database, tasks=("a", "b", "c", "d"))
    rows = await database.fetch("SELECT seq, task FROM events WHERE kind = 'task-submitted' ORDER BY seq")
    submitted = [TaskSubmitted(run=run.id, task=row["task"], seq=row["seq"]) for row in rows]
    for event, due in zip(submitted[:3], (None, None, 2**60), strict=True):
        fail = partial(fail_delivery, delivery=Delivery("collect", event), error="down", due=due)
        await database.write(fail)
    summary = await summarise(database, run)
    assert (summary.owed, summary.put_off, summary.next_try) == (2, 1, 2**60)
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
    assert found["trajectories"] == {"success": 0, "failure": 0, "error": 0, "open": 0, "cancelled": 0}
    assert found["set_aside"] == []


async def test_rollouts_of_cancelled_tasks_are_not_open_for_ever(database: Database) -> None:
    run = await new_run(database, tasks=("given up", "at work"))
    for task in (1, 2):
        await new_trajectory(database, task=task, steps=1)
    await new_trajectory(database, task=1, ordinal=1, outcome="failure")
    await database.write(lambda transaction: cancel_deliveries(transaction, run=run.id, task=1))
    found = (await summarise(database, run)).trajectories
    assert (found.open, found.cancelled, found.failure) == (1, 1, 1)
