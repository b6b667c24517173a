"""Resample: find the candidate critical steps of a failed trajectory.

At each step the PRM scores the policy's own action. Only where that is bad is the expert asked for alternatives,
with exactly the messages that the policy saw; each distinct one is scored in the same context. A step whose action a
content filter let not through has nothing to score and nothing to prefer anything to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import anyio

from handlers.prm import StepScorer
from handlers.rollouts import finish_all
from handlers.scoring import RecentStep, normalise_code
from runtime.agents.base import Action
from runtime.deadline import deadline
from runtime.handler import Result, nothing_more
from runtime.logs import get_logger
from runtime.models.errors import ContentFiltered, ContextOverflow
from runtime.models.journal import Journal
from runtime.services import Services
from store.calls import load_request
from store.candidates import POLICY_ORDINAL, NewCandidate, add_candidates, load_candidates
from store.events import Event, StepScored, TrajectoryCompleted
from store.messages import Message
from store.tasks import Task, load_task
from store.trajectories import Step, Trajectory, load_steps, load_trajectory
from store.transaction import Transaction

_log = get_logger("resample")


class Resample:
    """Turns a failed trajectory into scored steps."""

    name = "resample"
    consumes: ClassVar[tuple[type[Event], ...]] = (TrajectoryCompleted,)

    def __init__(self, services: Services) -> None:
        self._services = services
        self.workers = services.settings.resample.workers

    async def handle(self, event: Event) -> Result:
        """Score every step of the trajectory that has no scores yet; a success needs none."""
        assert isinstance(event, TrajectoryCompleted)  # the only kind that it consumes
        if event.outcome != "failure":
            return nothing_more
        database = self._services.database
        trajectory = await load_trajectory(database, event.trajectory)
        task = await load_task(database, trajectory.task)
        scored = {candidate.step for candidate in await load_candidates(database, trajectory.id)}
        examined = Examined(
            services=self._services,
            trajectory=trajectory,
            task=task,
            steps=await load_steps(database, trajectory),
            journal=await self._services.models.journal(trajectory, task),
        )
        await finish_all(
            partial(examined.score, step)
            for step in examined.steps
            if step.index not in scored and step.action_call is not None
        )
        return nothing_more


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """A candidate on its way to its score."""

    ordinal: int
    action: Action
    call: int | None
    duplicate_of: int | None = None
    score: float | None = None

    @property
    def stored(self) -> NewCandidate:
        """The form in which it is kept."""
        return NewCandidate(
            ordinal=self.ordinal,
            action=self.action.text,
            call=self.call,
            duplicate_of=self.duplicate_of,
            usable=self.action.usable,
            score=self.score,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A failed trajectory under examination."""

    services: Services
    trajectory: Trajectory
    task: Task
    steps: Sequence[Step]
    journal: Journal

    async def score(self, step: Step) -> None:
        """Score a step's candidates and save them together.

        Raises:
            InfrastructureError: a model could not be reached, in time or at all; replies so far are in the journal.
        """
        critical, seconds = self.services.settings.critical, self.services.settings.agent.step_deadline
        what = f"the scoring of step {step.index} of {self.trajectory.label}"
        alternatives: list[Considered] = []
        with deadline(seconds, what=what, setting="agent.step_deadline"):
            prm = await self._prm(step)
            own = await self._own(step)
            own = replace(own, score=await prm.score_own(own.action))
            if own.score is not None and own.score < critical.bad_max:
                alternatives = await self._alternatives(step, own, prm)
        good = sum(1 for one in alternatives if one.score is not None and one.score > critical.good_min)
        told = StepScored(
            run=self.trajectory.run,
            task=self.trajectory.task,
            trajectory=self.trajectory.id,
            step=step.index,
            score=own.score,
            alternatives=sum(1 for one in alternatives if one.score is not None),
            good=good,
            critical=good > 0,
        )

        def write(transaction: Transaction) -> None:
            candidates = [one.stored for one in (own, *alternatives)]
            add_candidates(transaction, trajectory=self.trajectory.id, step=step.index, candidates=candidates)
            transaction.publish(told)

        await self.services.database.save(write)

    async def _own(self, step: Step) -> Considered:
        action = await self.services.agent.read(step.action)
        return Considered(ordinal=POLICY_ORDINAL, action=action, call=step.action_call)

    async def _prm(self, step: Step) -> StepScorer:
        settings = self.services.settings.resample
        recent = []
        for earlier in self.steps[max(0, step.index - settings.recent_steps) : step.index]:
            action = await self.services.agent.read(earlier.action)
            recent.append(RecentStep(earlier.index, action.thought, action.code, earlier.observation))
        return StepScorer(
            journal=self.journal,
            question=self.task.question,
            state=step.state,
            index=step.index,
            recent=recent,
            attempts=settings.score_attempts,
        )

    async def _alternatives(self, step: Step, own: Considered, prm: StepScorer) -> list[Considered]:
        """The expert's proposals at a step, the distinct and usable ones scored."""
        assert step.action_call is not None  # or the step would not be examined
        messages = await load_request(self.services.database, step.action_call)
        found: dict[int, Considered] = {}

        async def propose(ordinal: int) -> None:
            found[ordinal] = await self._proposal(step.index, ordinal, messages)

        ordinals = range(1, self.services.settings.resample.alternatives + 1)
        await finish_all(partial(propose, ordinal) for ordinal in ordinals)
        marked = await anyio.to_thread.run_sync(_mark_duplicates, own, [found[ordinal] for ordinal in ordinals])
        scored: dict[int, Considered] = {}

        async def score(one: Considered) -> None:
            scored[one.ordinal] = replace(one, score=await prm.score(one.action, one.ordinal))

        await finish_all(partial(score, one) for one in marked if one.duplicate_of is None and one.action.usable)
        return [scored.get(one.ordinal, one) for one in marked]

    async def _proposal(self, step: int, ordinal: int, messages: tuple[Message, ...]) -> Considered:
        """What the expert proposes: no action where its filter refuses, or the messages are too long for it."""
        try:
            reply = await self.journal.ask(
                role="expert", module="action", step=step, messages=messages, ordinal=ordinal
            )
        except (ContentFiltered, ContextOverflow) as error:
            _log.warning("no alternative", trajectory=self.trajectory.label, step=step, reason=str(error))
            none = Action(text="", thought="", code="", problem=str(error))
            return Considered(ordinal=ordinal, action=none, call=None)
        return Considered(ordinal=ordinal, action=await self.services.agent.read(reply.content), call=reply.call)


def _mark_duplicates(own: Considered, proposed: Sequence[Considered]) -> list[Considered]:
    """Say of each proposal whose code repeats the policy's or an earlier one which candidate that is."""
    first: dict[str, int] = {normalise_code(own.action.code): own.ordinal} if own.action.usable else {}
    marked = []
    for one in proposed:
        if not one.action.usable:
            marked.append(one)
            continue
        known = first.setdefault(normalise_code(one.action.code), one.ordinal)
        marked.append(one if known == one.ordinal else replace(one, duplicate_of=known))
    return marked
