"""Preference pairs: a verified critical step, with the outcomes that verified it."""

from __future__ import annotations

from dataclasses import dataclass

from store.events import PairVerified
from store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Outcomes behind an alternative, and those of the controls that kept the policy's own action."""

    successes: int
    rollouts: int
    control_successes: int
    controls: int

    @property
    def gain(self) -> float:
        """Success rate of the alternative less that of the controls, in [-1, 1]; no controls count as rate 0."""
        control_rate = self.control_successes / self.controls if self.controls else 0.0
        return self.successes / self.rollouts - control_rate


def add_pair(
    transaction: Transaction,
    *,
    run: int,
    task: int | None,
    trajectory: int,
    step: int,
    candidate: int,
    evidence: Evidence,
) -> None:
    """Commit a pair and tell of it; an alternative makes one pair, however often it is asked for.

    The pair keeps the digest of the run as it is now, which a person may have changed since the run was begun.
    """
    cursor = transaction.execute(
        "INSERT INTO pairs (trajectory, step, candidate, digest, successes, rollouts, control_successes, controls)"
        " VALUES (?, ?, ?, (SELECT digest FROM runs WHERE id = ?), ?, ?, ?, ?) ON CONFLICT (candidate) DO NOTHING",
        (
            trajectory,
            step,
            candidate,
            run,
            evidence.successes,
            evidence.rollouts,
            evidence.control_successes,
            evidence.controls,
        ),
    )
    if cursor.rowcount == 1:
        row = transaction.execute("SELECT id FROM pairs WHERE candidate = ?", (candidate,)).fetchone()
        transaction.publish(
            PairVerified(run=run, task=task, pair=row["id"], trajectory=trajectory, step=step, candidate=candidate)
        )
