"""Trajectories and their steps, branches among them: a branch's steps before its fork are its parent's."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, replace

import orjson

from store.blobs import decode_text
from store.database import Reader
from store.events import Outcome, StepCompleted
from store.transaction import Transaction, now_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Where a branch leaves its parent, and the candidate that it takes there."""

    parent: int
    step: int
    candidate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """A rollout, begun or ended.

    `label` names it for people and models: task/ordinal, followed by @step.candidate.ordinal for a branch. Of one
    that is `untouched` no call and no step was recorded when it was begun, so that nobody need look for them.
    """

    id: int
    run: int
    task: int
    label: str
    fork: Fork | None
    ordinal: int
    outcome: Outcome | None
    stop_reason: str | None
    answer: str | None
    error: str | None
    untouched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step as it was committed.

    `action` is the text that later prompts repeat, `state` the literal of the progress state at the action,
    `workspace` the blob of the manifest after it (None: no files) and `result` the JSON of what stop() was given.
    Without an `action_call` the action is not the policy's own: a branch was given it, or, where it is empty, a
    content filter let none through.
    """

    index: int
    action: str
    state: str
    observation: str
    workspace: int | None
    result: str | None
    failed: bool
    seconds: float
    action_call: int | None = None


_LABELS = """
    SELECT t.id, t.ordinal, t.parent, t.fork, k.name AS task_name,
        c.ordinal AS candidate_ordinal, p.ordinal AS parent_ordinal
    FROM trajectories t
    JOIN tasks k ON k.id = t.task
    LEFT JOIN candidates c ON c.id = t.candidate
    LEFT JOIN trajectories p ON p.id = t.parent
    WHERE t.id IN (SELECT value FROM json_each(?))
"""
_TOUCHED = (
    "SELECT EXISTS (SELECT 1 FROM calls WHERE trajectory = ?1) OR EXISTS (SELECT 1 FROM steps WHERE trajectory = ?1)"
)
_SELECT = """
    SELECT t.*, k.run, k.name AS task_name, b.data AS answer_data,
        c.ordinal AS candidate_ordinal, p.ordinal AS parent_ordinal
    FROM trajectories t
    JOIN tasks k ON k.id = t.task
    LEFT JOIN blobs b ON b.id = t.answer
    LEFT JOIN candidates c ON c.id = t.candidate
    LEFT JOIN trajectories p ON p.id = t.parent
"""


def begin_trajectory(transaction: Transaction, *, task: int, ordinal: int, fork: Fork | None = None) -> int:
    """The id of a rollout's row, made if it is new; one that had ended in an error is open again."""
    place = (task, fork.parent if fork else None, fork.candidate if fork else None, ordinal)
    row = transaction.execute(
        "SELECT id, outcome FROM trajectories WHERE task = ? AND ifnull(parent, 0) = ifnull(?, 0)"
        " AND ifnull(candidate, 0) = ifnull(?, 0) AND ordinal = ?",
        place,
    ).fetchone()
    if row is None:
        return transaction.insert(
            "INSERT INTO trajectories (task, parent, candidate, ordinal, fork, started) VALUES (?, ?, ?, ?, ?, ?)",
            (*place, fork.step if fork else None, now_us()),
        )
    if row["outcome"] == "error":
        transaction.execute(
            "UPDATE trajectories SET outcome = NULL, error = NULL, ended = NULL WHERE id = ?", (row["id"],)
        )
    return int(row["id"])


def end_trajectory(
    transaction: Transaction,
    identifier: int,
    *,
    outcome: Outcome,
    stop_reason: str | None = None,
    answer: str | None = None,
    error: str | None = None,
) -> None:
    """Record how a rollout ended."""
    transaction.execute(
        "UPDATE trajectories SET outcome = ?, stop_reason = ?, answer = ?, error = ?, ended = ? WHERE id = ?",
        (
            outcome,
            stop_reason,
            None if answer is None else transaction.blobs.text(answer),
            error,
            now_us(),
            identifier,
        ),
    )


def add_step(transaction: Transaction, trajectory: Trajectory, step: Step, *, workspace: int | None) -> None:
    """Commit a step, once, and tell of it."""
    blobs = transaction.blobs
    transaction.execute(
        "INSERT INTO steps (trajectory, step, action_call, action, state, observation, workspace, result, failed,"
        " seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            trajectory.id,
            step.index,
            step.action_call,
            blobs.text(step.action),
            blobs.text(step.state),
            blobs.text(step.observation),
            workspace,
            None if step.result is None else blobs.text(step.result),
            step.failed,
            step.seconds,
        ),
    )
    transaction.publish(
        StepCompleted(
            run=trajectory.run, task=trajectory.task, trajectory=trajectory.id, step=step.index, failed=step.failed
        )
    )


def find_trajectory(transaction: Transaction, identifier: int) -> Trajectory:
    """The trajectory of that id, which must exist, as the write sees it that begins it."""
    (touched,) = transaction.execute(_TOUCHED, (identifier,)).fetchone()
    row = transaction.execute(_SELECT + " WHERE t.id = ?", (identifier,)).fetchone()
    return replace(_from_row(row), untouched=not touched)


async def load_trajectory(reader: Reader, identifier: int) -> Trajectory:
    """The trajectory of that id, which must exist."""
    row = await reader.fetch_one(_SELECT + " WHERE t.id = ?", (identifier,))
    if row is None:
        raise LookupError(f"there is no trajectory {identifier}")
    return _from_row(row)


async def load_labels(reader: Reader, identifiers: Collection[int]) -> dict[int, str]:
    """The labels of trajectories by their ids; those that do not exist are left out."""
    rows = await reader.fetch(_LABELS, (orjson.dumps(list(identifiers)).decode(),))
    return {row["id"]: _label(row) for row in rows}


async def load_branches(reader: Reader, parent: int, step: int) -> list[Trajectory]:
    """The branches that leave a trajectory at a step, in the order in which they were begun."""
    rows = await reader.fetch(_SELECT + " WHERE t.parent = ? AND t.fork = ? ORDER BY t.id", (parent, step))
    return [_from_row(row) for row in rows]


async def load_steps(reader: Reader, trajectory: Trajectory) -> list[Step]:
    """All steps of a trajectory in order, those that a branch has from its parent included."""
    steps: list[Step] = []
    if trajectory.fork is not None:
        parent = await load_trajectory(reader, trajectory.fork.parent)
        steps = [step for step in await load_steps(reader, parent) if step.index < trajectory.fork.step]
    if trajectory.untouched:
        return steps
    rows = await reader.fetch(
        "SELECT s.*, a.data AS action_data, p.data AS state_data, o.data AS observation_data, r.data AS result_data"
        " FROM steps s JOIN blobs a ON a.id = s.action JOIN blobs p ON p.id = s.state"
        " JOIN blobs o ON o.id = s.observation LEFT JOIN blobs r ON r.id = s.result"
        " WHERE s.trajectory = ? ORDER BY s.step",
        (trajectory.id,),
    )
    return steps + [_step_from_row(row) for row in rows]


def _label(row: sqlite3.Row) -> str:
    if row["parent"] is None:
        return f"{row['task_name']}/{row['ordinal']}"
    return f"{row['task_name']}/{row['parent_ordinal']}@{row['fork']}.{row['candidate_ordinal']}.{row['ordinal']}"


def _from_row(row: sqlite3.Row) -> Trajectory:
    fork = None
    if row["parent"] is not None:
        fork = Fork(parent=row["parent"], step=row["fork"], candidate=row["candidate"])
    return Trajectory(
        id=row["id"],
        run=row["run"],
        task=row["task"],
        label=_label(row),
        fork=fork,
        ordinal=row["ordinal"],
        outcome=row["outcome"],
        stop_reason=row["stop_reason"],
        answer=None if row["answer_data"] is None else decode_text(row["answer_data"]),
        error=row["error"],
    )


def _step_from_row(row: sqlite3.Row) -> Step:
    return Step(
        index=row["step"],
        action=decode_text(row["action_data"]),
        state=decode_text(row["state_data"]),
        observation=decode_text(row["observation_data"]),
        workspace=row["workspace"],
        result=None if row["result_data"] is None else decode_text(row["result_data"]),
        failed=bool(row["failed"]),
        seconds=row["seconds"],
        action_call=row["action_call"],
    )
