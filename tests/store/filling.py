"""Rows as the stages of the method write them, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from store.calls import CallRecord, Place, record_call
from store.candidates import NewCandidate, add_candidates
from store.database import Database
from store.events import Outcome
from store.formats.task_files import TaskRecord
from store.jsontypes import JsonValue
from store.messages import Message
from store.runs import Run, create_run
from store.tasks import submit_task
from store.trajectories import Fork, Step, add_step, begin_trajectory, end_trajectory, load_trajectory
from store.transaction import Transaction

PROMPT = (
    Message("system", "Rules of the policy."),
    Message.joined("user", "Task: ", "What is the answer? " * 5),
    Message("assistant", "Thought: first.\nCode:\n```python\nprint(1)\n```"),
    Message.joined("user", "Observation of step 0:\n", "1", "\n\nWrite the action of step 1."),
)


async def new_run(database: Database, name: str = "r", *, tasks: Sequence[str] = ("t",)) -> Run:
    """A run with tasks."""
    identity: dict[str, JsonValue] = {
        "critical.good_min": 0.6,
        "critical.bad_max": 0.5,
        "models.policy.model": "p",
    }

    def write(transaction: Transaction) -> Run:
        run = create_run(transaction, name=name, digest=f"digest of {name}", identity=identity)
        for task in tasks:
            submit_task(transaction, run=run.id, record=TaskRecord(task, "question", "42", None, {}))
        return run

    return await database.write(write)


async def new_call(
    database: Database,
    trajectory: int,
    *,
    step: int,
    role: str = "policy",
    tokens: int = 10,
    cost: int | None = None,
) -> int:
    """A journalled call with as many prompt tokens, and one token of reply."""
    record = CallRecord(
        place=Place(trajectory=trajectory, step=step, role=role, module="action"),
        digest=f"{role} {step}".encode(),
        content="a reply",
        reasoning="",
        finish_reason="stop",
        prompt_tokens=tokens,
        completion_tokens=1,
        cached_tokens=0,
        latency=0.5,
        attempts=1,
        endpoint=role,
        cost=cost,
    )
    run = await database.fetch_one(
        "SELECT k.run, k.id FROM trajectories t JOIN tasks k ON k.id = t.task WHERE t.id = ?", (trajectory,)
    )
    assert run is not None
    reply = await database.write(
        lambda transaction: record_call(transaction, run=run["run"], task=run["id"], messages=PROMPT, record=record)
    )
    return reply.call


async def new_trajectory(
    database: Database,
    *,
    task: int = 1,
    ordinal: int = 0,
    fork: Fork | None = None,
    steps: int = 0,
    outcome: Outcome | None = None,
) -> int:
    """A rollout with as many steps of its own; those of a trajectory that is no branch have a call each."""
    identifier = await database.write(lambda t: begin_trajectory(t, task=task, ordinal=ordinal, fork=fork))
    trajectory = await load_trajectory(database, identifier)
    first = fork.step if fork else 0
    for index in range(first, first + steps):
        step = Step(
            index=index,
            action=f"action {index} of {trajectory.label}",
            state="{}",
            observation=f"observation {index}",
            workspace=None,
            result=None,
            failed=False,
            seconds=0.25,
            action_call=None if fork else await new_call(database, identifier, step=index),
        )
        await database.write(partial(add_step, trajectory=trajectory, step=step, workspace=None))
    if outcome is not None:
        await database.write(lambda t: end_trajectory(t, identifier, outcome=outcome, answer="an answer"))
    return identifier


async def score_step(database: Database, trajectory: int, step: int, scores: Sequence[float | None]) -> list[int]:
    """Candidates with these scores, the policy's own first; their ids."""
    candidates = [
        NewCandidate(
            ordinal=ordinal,
            action=f"candidate {ordinal} of step {step}",
            call=None,
            duplicate_of=None,
            usable=True,
            score=score,
        )
        for ordinal, score in enumerate(scores)
    ]
    await database.write(lambda t: add_candidates(t, trajectory=trajectory, step=step, candidates=candidates))
    rows = await database.fetch(
        "SELECT id FROM candidates WHERE trajectory = ? AND step = ? ORDER BY ordinal", (trajectory, step)
    )
    return [row["id"] for row in rows]
