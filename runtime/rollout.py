"""The loop around an agent: budget, checkpoints, stop reasons, and going on where a crash left off.

A rollout is begun, resumed and branched by the same code: it loads the steps that are committed, puts the workspace
into the state that the last of them left, and goes on. A branch differs in one thing: its first own step takes the
candidate that it was given, with the progress state that the policy had at that step.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from runtime.agents.base import Action, Agent, Answer, Context, Decision, StopReason
from runtime.deadline import deadline
from runtime.models.journal import Models
from runtime.sandbox import Limits, Sandbox
from runtime.search import Search
from runtime.workspaces import Workspace, Workspaces, WorkspaceTooLargeError
from store.blobs import decode_blob
from store.candidates import load_candidate
from store.database import Database
from store.manifests import Manifest
from store.tasks import Task
from store.trajectories import Step, Trajectory, add_step, load_steps, load_trajectory
from store.transaction import Transaction

# Steps whose code failed are given back, but not for ever.
_REFUND_CEILING = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long a rollout may go on: steps, and seconds spent in them."""

    max_steps: int = 12
    time_limit: float = 4200.0

    def steps_allowed(self, steps: tuple[Step, ...], fork: int | None) -> int:
        """How many steps a rollout may have in all, those of a branch's parent included.

        A failed step is refunded up to 1.5 times the budget. A branch gets what is left at its fork, and at least
        one step after the candidate that it takes there.
        """
        failed = sum(step.failed for step in steps)
        allowed = min(self.max_steps + failed, int(_REFUND_CEILING * self.max_steps))
        return max(allowed, _steps_due(fork))

    def seconds_left(self, steps: tuple[Step, ...], fork: int | None) -> float:
        """How much time a rollout may still take after some steps; without end while more of them are due.

        A branch takes over its parent's time like its steps, and gets the one step after its candidate all the same.
        """
        is_due = len(steps) < _steps_due(fork)
        return math.inf if is_due else self.time_limit - sum(step.seconds for step in steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a rollout ended, before anyone has judged it."""

    reason: StopReason
    answer: Answer
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What every rollout of a run works with.

    `step_deadline`: seconds that a step, or the end of a rollout, may take with all waits. They bound how long
    trouble can hold it up; the time that the policy itself has is the budget's.
    """

    agent: Agent
    budget: Budget
    step_deadline: float = 3600.0
    database: Database
    models: Models
    sandbox: Sandbox
    limits: Limits
    search: Search
    search_limit: int
    workspaces: Workspaces


async def run_rollout(equipment: Equipment, trajectory: Trajectory, task: Task) -> Ended:
    """Run a rollout to its end, from wherever it stands.

    Raises:
        InfrastructureError: it could not go on; the steps so far are kept, and it can be called again.
        BudgetSpentError: it may not go on for now; likewise.
    """
    database = equipment.database
    steps = await load_steps(database, trajectory)
    async with equipment.workspaces.open(str(trajectory.id)) as workspace:
        files = steps[-1].workspace if steps else task.workspace
        if files is not None:  # a workspace is empty when it is opened
            await workspace.restore(database, files)
        loop = _Loop(
            equipment=equipment,
            trajectory=trajectory,
            given=await _given(equipment, trajectory),
            context=Context(
                task=task,
                files=await _file_names(database, task),
                steps=tuple(steps),
                workspace=workspace,
                journal=await equipment.models.journal(trajectory, task),
                sandbox=equipment.sandbox,
                limits=equipment.limits,
                search=equipment.search,
                search_limit=equipment.search_limit,
            ),
        )
        try:
            return await loop.run()
        finally:
            equipment.sandbox.forget(workspace.path)


@dataclass(slots=True, kw_only=True)
class _Loop:
    """One rollout under way; `given` is the decision that a branch takes at its fork."""

    equipment: Equipment
    trajectory: Trajectory
    given: Decision | None
    context: Context

    async def run(self) -> Ended:
        reason = self._reason_to_stop()
        while reason is None:
            step, manifest = await self._step()
            self.context = replace(self.context, steps=(*self.context.steps, replace(step, workspace=manifest)))
            reason = self._reason_to_stop()
        with self._deadline(f"the end of {self.trajectory.label}"):
            answer = await self.equipment.agent.conclude(self.context, reason)
        return Ended(reason=reason, answer=answer, steps=len(self.context.steps))

    def _reason_to_stop(self) -> StopReason | None:
        steps, budget = self.context.steps, self.equipment.budget
        fork = self.trajectory.fork.step if self.trajectory.fork else None
        if steps and steps[-1].result is not None:
            return StopReason.STOPPED
        if len(steps) >= budget.steps_allowed(steps, fork):
            return StopReason.MAX_STEPS
        if budget.seconds_left(steps, fork) <= 0:
            return StopReason.TIME_LIMIT
        return None

    async def _step(self) -> tuple[Step, int | None]:
        """Think, act, and commit the step with the workspace that it left."""
        agent, fork = self.equipment.agent, self.trajectory.fork
        at_fork = fork is not None and self.context.index == fork.step
        left = self.equipment.budget.seconds_left(self.context.steps, fork.step if fork else None)
        context = replace(self.context, seconds_left=left)
        context.journal.begin_step(context.index)
        with self._deadline(f"step {context.index} of {self.trajectory.label}"):
            decision = self.given if self.given and at_fork else await agent.think(context)
            acted = await agent.act(decision, context)
        step = Step(
            index=context.index,
            action=decision.action.text,
            state=decision.state,
            observation=acted.observation,
            workspace=None,
            result=acted.result,
            failed=acted.failed,
            seconds=decision.seconds + acted.seconds,
            action_call=decision.call,
        )
        return await self._commit(step, context.workspace)

    def _deadline(self, what: str) -> AbstractContextManager[None]:
        return deadline(self.equipment.step_deadline, what=what, setting="agent.step_deadline")

    async def _commit(self, step: Step, workspace: Workspace) -> tuple[Step, int | None]:
        database = self.equipment.database
        try:
            capture = await workspace.capture()
        except WorkspaceTooLargeError as error:
            return await self._refuse_files(step, workspace, str(error))

        def write(transaction: Transaction) -> tuple[int | None, Manifest]:
            manifest, blob = capture.store(transaction)
            add_step(transaction, self.trajectory, step, workspace=blob)
            return blob, manifest

        blob, manifest = await database.save(write)
        workspace.remember(capture, manifest)
        return step, blob

    async def _refuse_files(self, step: Step, workspace: Workspace, reason: str) -> tuple[Step, int | None]:
        """Put the files back as they were before the step and say so to the policy."""
        before = self.context.steps[-1].workspace if self.context.steps else self.context.task.workspace
        await workspace.restore(self.equipment.database, before)
        refused = replace(
            step,
            failed=True,
            observation=f"{step.observation}\n{reason}: all files were put back as they were before this step.",
        )

        def write(transaction: Transaction) -> None:
            add_step(transaction, self.trajectory, refused, workspace=before)

        await self.equipment.database.save(write)
        return refused, before


def _steps_due(fork: int | None) -> int:
    """How many steps a branch has at the least: to its fork, its candidate, and one in which the policy goes on."""
    return 0 if fork is None else fork + 2


async def _given(equipment: Equipment, trajectory: Trajectory) -> Decision | None:
    """The decision that a branch takes at its fork: its candidate, over the state that the policy had there."""
    if trajectory.fork is None:
        return None
    candidate = await load_candidate(equipment.database, trajectory.fork.candidate)
    parent = await load_trajectory(equipment.database, trajectory.fork.parent)
    at_fork = (await load_steps(equipment.database, parent))[trajectory.fork.step]
    action: Action = await equipment.agent.read(candidate.action)
    return Decision(action=action, state=at_fork.state, call=None)


async def _file_names(database: Database, task: Task) -> tuple[str, ...]:
    if task.workspace is None:
        return ()
    row = await database.fetch_one("SELECT data FROM blobs WHERE id = ?", (task.workspace,))
    assert row is not None  # a foreign key of the task
    return tuple(Manifest.decode(decode_blob(row["data"])).entries)
