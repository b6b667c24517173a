"""Trajectories: each place has one row, a branch shares its parent's steps, and only errors are opened again."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from store.database import Database
from store.events import Outcome
from store.trajectories import (
    Fork,
    add_step,
    begin_trajectory,
    end_trajectory,
    find_trajectory,
    load_branches,
    load_labels,
    load_steps,
    load_trajectory,
)
from tests.store.filling import new_call, new_run, new_trajectory, score_step


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(tmp_path) as opened:
        await new_run(opened)
        yield opened


async def branched(database: Database) -> tuple[int, Fork]:
    """A failed trajectory of four steps, and a fork at its step 2."""
    parent = await new_trajectory(database, steps=4, outcome="failure")
    _, alternative = await score_step(database, parent, 2, [0.1, 0.9])
    return parent, Fork(parent=parent, step=2, candidate=alternative)


async def test_a_place_has_one_row_however_often_it_is_begun(database: Database) -> None:
    parent, fork = await branched(database)
    again = await database.write(partial(begin_trajectory, task=1, ordinal=0))
    branches = [await database.write(partial(begin_trajectory, task=1, ordinal=0, fork=fork)) for _ in range(2)]
    other = await database.write(partial(begin_trajectory, task=1, ordinal=1, fork=fork))
    assert again == parent
    assert branches[0] == branches[1]
    assert len({parent, branches[0], other}) == 3


async def test_only_a_trajectory_without_a_step_or_a_call_is_untouched(database: Database) -> None:
    async def untouched(identifier: int) -> bool:
        return (await database.write(partial(find_trajectory, identifier=identifier))).untouched

    parent, fork = await branched(database)
    fresh = await database.write(partial(begin_trajectory, task=1, ordinal=1))
    branch = await database.write(partial(begin_trajectory, task=1, ordinal=0, fork=fork))
    assert [await untouched(identifier) for identifier in (parent, fresh, branch)] == [False, True, True]
    steps = await load_steps(database, await database.write(partial(find_trajectory, identifier=branch)))
    assert [step.index for step in steps] == [0, 1]  # its parent's
    await new_call(database, fresh, step=0)
    assert not await untouched(fresh)


async def test_a_branch_has_the_steps_of_its_parent_before_the_fork_and_then_its_own(database: Database) -> None:
    parent, fork = await branched(database)
    branch = await load_trajectory(database, await new_trajectory(database, fork=fork, steps=3))
    shared = await load_steps(database, await load_trajectory(database, parent))
    steps = await load_steps(database, branch)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert steps[:2] == shared[:2]
    assert [step.action for step in steps[2:]] == [f"action {index} of t/0@2.1.0" for index in (2, 3, 4)]


async def test_a_branch_that_has_begun_and_not_stepped_has_its_parents_steps_alone(database: Database) -> None:
    parent, fork = await branched(database)
    branch = await load_trajectory(database, await new_trajectory(database, fork=fork))
    assert [step.index for step in await load_steps(database, branch)] == [0, 1]
    assert len(await load_steps(database, await load_trajectory(database, parent))) == 4


async def test_labels_name_task_rollout_step_candidate_and_repetition(database: Database) -> None:
    parent, fork = await branched(database)
    branches = [await new_trajectory(database, fork=fork, ordinal=ordinal) for ordinal in (0, 1)]
    labels = await load_labels(database, [parent, *branches, 999])
    assert labels == {parent: "t/0", branches[0]: "t/0@2.1.0", branches[1]: "t/0@2.1.1"}
    assert (await load_trajectory(database, branches[1])).label == "t/0@2.1.1"


async def test_branches_are_found_by_the_step_where_they_leave(database: Database) -> None:
    parent, fork = await branched(database)
    branches = [await new_trajectory(database, fork=fork, ordinal=ordinal) for ordinal in (0, 1)]
    assert [branch.id for branch in await load_branches(database, parent, 2)] == branches
    assert await load_branches(database, parent, 1) == []


@pytest.mark.parametrize("outcome", ["success", "failure"])
async def test_what_was_judged_stays_judged(database: Database, outcome: Outcome) -> None:
    ended = await new_trajectory(database, outcome=outcome)
    assert await database.write(partial(begin_trajectory, task=1, ordinal=0)) == ended
    assert (await load_trajectory(database, ended)).outcome == outcome


async def test_what_ended_in_an_error_is_open_again_with_its_steps(database: Database) -> None:
    broken = await new_trajectory(database, steps=2)
    await database.write(partial(end_trajectory, identifier=broken, outcome="error", error="the endpoint is down"))
    assert (await load_trajectory(database, broken)).error == "the endpoint is down"
    await database.write(partial(begin_trajectory, task=1, ordinal=0))
    trajectory = await load_trajectory(database, broken)
    assert (trajectory.outcome, trajectory.error) == (None, None)
    assert len(await load_steps(database, trajectory)) == 2


async def test_a_step_is_committed_once(database: Database) -> None:
    trajectory = await load_trajectory(database, await new_trajectory(database, steps=1))
    (step,) = await load_steps(database, trajectory)
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(lambda transaction: add_step(transaction, trajectory, step, workspace=None))
    told = await database.fetch("SELECT seq FROM events WHERE kind = 'step-completed'")
    assert len(told) == 1


async def test_a_trajectory_that_does_not_exist_is_told(database: Database) -> None:
    with pytest.raises(LookupError, match="999"):
        await load_trajectory(database, 999)
