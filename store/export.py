"""Pairs as they leave the store: the request that the policy got, what was chosen, what was rejected, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from store.blobs import decode_text
from store.calls import load_request
from store.database import Reader
from store.messages import Message
from store.pairs import Evidence
from store.runs import Run
from store.trajectories import load_trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A verified preference pair with its provenance.

    `prompt` is, message by message, what the policy's endpoint received for its action; `chosen` and `rejected` are
    replies in the format that it asks for. Scores are the PRM's, in [0, 1].
    """

    id: int
    run: str
    digest: str
    task: str
    trajectory: str
    step: int
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
    evidence: Evidence


async def load_pairs(reader: Reader, run: Run) -> AsyncIterator[Pair]:
    """The pairs of a run, one by one, in the order of task, trajectory and step."""
    numbers = await reader.fetch(
        "SELECT p.id FROM pairs p JOIN trajectories t ON t.id = p.trajectory JOIN tasks k ON k.id = t.task"
        " WHERE k.run = ? ORDER BY k.id, t.ordinal, p.step, p.candidate",
        (run.id,),
    )
    for number in numbers:
        yield await load_pair(reader, run, number["id"])


async def has_pair(reader: Reader, run: Run, *, task: str, step: int, digest: str) -> bool:
    """Whether a run has a pair of a task's step that was made under a digest."""
    row = await reader.fetch_one(
        "SELECT 1 FROM pairs p JOIN trajectories t ON t.id = p.trajectory JOIN tasks k ON k.id = t.task"
        " WHERE k.run = ? AND k.name = ? AND p.step = ? AND p.digest = ?",
        (run.id, task, step, digest),
    )
    return row is not None


async def load_pair(reader: Reader, run: Run, identifier: int) -> Pair:
    """The pair of that id.

    Raises:
        LookupError: there is no such pair.
    """
    row = await reader.fetch_one(
        """
        SELECT p.*, k.name AS task_name, s.action_call, chosen.score AS chosen_score, own.score AS rejected_score,
               good.data AS chosen_data, bad.data AS rejected_data
        FROM pairs p
        JOIN trajectories t ON t.id = p.trajectory JOIN tasks k ON k.id = t.task
        JOIN steps s ON s.trajectory = p.trajectory AND s.step = p.step
        JOIN candidates chosen ON chosen.id = p.candidate
        JOIN candidates own ON own.trajectory = p.trajectory AND own.step = p.step AND own.ordinal = 0
        JOIN blobs good ON good.id = chosen.action JOIN blobs bad ON bad.id = own.action
        WHERE p.id = ? AND k.run = ?
        """,
        (identifier, run.id),
    )
    if row is None:
        raise LookupError(f"run {run.name} has no pair {identifier}")
    return Pair(
        id=row["id"],
        run=run.name,
        digest=row["digest"],
        task=row["task_name"],
        trajectory=(await load_trajectory(reader, row["trajectory"])).label,
        step=row["step"],
        prompt=await load_request(reader, row["action_call"]),
        chosen=decode_text(row["chosen_data"]),
        rejected=decode_text(row["rejected_data"]),
        chosen_score=row["chosen_score"],
        rejected_score=row["rejected_score"],
        evidence=Evidence(
            successes=row["successes"],
            rollouts=row["rollouts"],
            control_successes=row["control_successes"],
            controls=row["controls"],
        ),
    )
