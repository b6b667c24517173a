"""A small run in the database with one event of each kind, for tests of what reads the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.config.identity import identity
from runtime.config.settings import Settings
from store.candidates import NewCandidate, add_candidates
from store.database import Database
from store.events import (
    KINDS,
    BranchCompleted,
    BudgetSpent,
    CallCompleted,
    DeliveryFailed,
    Event,
    PairVerified,
    Resumed,
    RunChanged,
    StepCompleted,
    StepScored,
    TaskCancelled,
    TaskFinished,
    TrajectoryCompleted,
)
from store.formats.task_files import TaskRecord
from store.runs import create_run
from store.tasks import submit_task
from store.trajectories import Fork, begin_trajectory
from store.transaction import Transaction

ERROR = "it said:\n\x1b[31mno\x1b[0m and 名前"


def tell_story(name: str = "r") -> Callable[[Transaction], None]:
    """A write that commits a run `name` of one task `t` with one event of each kind."""

    def write(transaction: Transaction) -> None:
        run = create_run(transaction, name=name, digest="0123456789abcdef", identity=identity(Settings())).id
        record = TaskRecord(name="t", question="Q?", answer="A", file=None, original={})
        submit_task(transaction, run=run, record=record)
        (task,) = transaction.execute("SELECT id FROM tasks WHERE run = ?", (run,)).fetchone()
        own = begin_trajectory(transaction, task=task, ordinal=0)
        action = {"action": "pass", "call": None, "duplicate_of": None, "usable": True, "score": 0.5}
        candidates = [NewCandidate(ordinal=ordinal, **action) for ordinal in (0, 1)]  # type: ignore[arg-type]
        add_candidates(transaction, trajectory=own, step=3, candidates=candidates)
        (chosen,) = transaction.execute("SELECT max(id) FROM candidates").fetchone()
        branch = begin_trajectory(transaction, task=task, ordinal=0, fork=Fork(parent=own, step=3, candidate=chosen))
        for event in _events(run, task, own, branch, chosen):
            transaction.publish(event)

    return write


def _events(run: int, task: int, own: int, branch: int, chosen: int) -> list[Event]:
    place = {"run": run, "task": task}
    at_step = {**place, "trajectory": own, "step": 3}
    return [
        CallCompleted(**at_step, role="policy", module="action", prompt_tokens=1200, completion_tokens=30),
        StepCompleted(**at_step, failed=True),
        TrajectoryCompleted(**place, trajectory=own, steps=4, stop_reason="max-steps", outcome="failure"),
        StepScored(**at_step, score=0.25, alternatives=2, good=1, critical=True),
        BranchCompleted(
            **place, trajectory=branch, parent=own, step=3, candidate=chosen, control=False, outcome="success"
        ),
        PairVerified(**at_step, pair=1, candidate=chosen),
        DeliveryFailed(**place, handler="collect", event=2, attempt=5, dead=True, error=ERROR),
        BudgetSpent(run=run, setting="budget.calls", cap=10.0, spent=10.0),
        RunChanged(
            run=run, before="0123456789abcdef", digest="123456789abcdef0", changes={"agent.max_steps": [12, 20]}
        ),
        Resumed(run=run, deliveries=1, trajectories=2, steps=3, calls=4),
        TaskCancelled(**place, deliveries=1),
        TaskFinished(**place),
    ]


STORY_LENGTH = len(KINDS)


async def write_story(directory: Path, *names: str) -> None:
    """Commit a story for each name, closing the database behind it."""
    async with Database(directory) as database:
        for name in names:
            await database.write(tell_story(name))


def filler(run: int, task: int, trajectory: int, count: int) -> Callable[[Transaction], None]:
    """A write that commits so many `step-completed` events."""

    def write(transaction: Transaction) -> None:
        for step in range(count):
            transaction.publish(StepCompleted(run=run, task=task, trajectory=trajectory, step=step, failed=False))

    return write
