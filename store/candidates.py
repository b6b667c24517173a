"""Candidates: the actions considered at a step, with their scores.

Ordinal 0 is always the policy's own action, scored in the same context as the alternatives, which count from 1.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from store.blobs import decode_text
from store.database import Reader
from store.transaction import Transaction

POLICY_ORDINAL = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCandidate:
    """A candidate to store.

    `score` is in [0, 1], None when unscored; `usable` is False when the reply held no action.
    """

    ordinal: int
    action: str
    call: int | None
    duplicate_of: int | None
    usable: bool
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A stored candidate of a step."""

    id: int
    trajectory: int
    step: int
    ordinal: int
    action: str
    duplicate_of: int | None
    usable: bool
    score: float | None

    @property
    def is_policys(self) -> bool:
        """Whether this is the policy's own action, not an alternative."""
        return self.ordinal == POLICY_ORDINAL


def add_candidates(
    transaction: Transaction, *, trajectory: int, step: int, candidates: Sequence[NewCandidate]
) -> None:
    """Commit all candidates of a step at once."""
    transaction.execute_many(
        "INSERT INTO candidates (trajectory, step, ordinal, action, call, duplicate_of, usable, score)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                trajectory,
                step,
                candidate.ordinal,
                transaction.blobs.text(candidate.action),
                candidate.call,
                candidate.duplicate_of,
                candidate.usable,
                candidate.score,
            )
            for candidate in candidates
        ],
    )


async def load_candidates(reader: Reader, trajectory: int, step: int | None = None) -> list[Candidate]:
    """The candidates of one step, or of all steps of a trajectory, by step and ordinal."""
    rows = await reader.fetch(
        "SELECT c.*, b.data FROM candidates c JOIN blobs b ON b.id = c.action"
        " WHERE c.trajectory = ? AND (? IS NULL OR c.step = ?) ORDER BY c.step, c.ordinal",
        (trajectory, step, step),
    )
    return [_from_row(row) for row in rows]


async def load_candidate(reader: Reader, identifier: int) -> Candidate:
    """The candidate of that id, which must exist."""
    row = await reader.fetch_one(
        "SELECT c.*, b.data FROM candidates c JOIN blobs b ON b.id = c.action WHERE c.id = ?", (identifier,)
    )
    if row is None:
        raise LookupError(f"there is no candidate {identifier}")
    return _from_row(row)


def _from_row(row: sqlite3.Row) -> Candidate:
    return Candidate(
        id=row["id"],
        trajectory=row["trajectory"],
        step=row["step"],
        ordinal=row["ordinal"],
        action=decode_text(row["data"]),
        duplicate_of=row["duplicate_of"],
        usable=bool(row["usable"]),
        score=row["score"],
    )
