"""Verify: put a good alternative in, let the policy finish, and see whether the outcome flips.

Alternatives go highest score first. Controls, if the run has any, let the policy go on from its own action at the
same step: they tell how often it would have succeeded anyway.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from handlers.evidence import alternatives_to_verify, verified
from handlers.rollouts import finish_all, roll_out, together
from runtime.errors import InfrastructureError
from runtime.executor import Rank
from runtime.handler import Result, nothing_more
from runtime.models.errors import EndpointStopped
from runtime.rollout import Ended
from runtime.services import Services
from store.candidates import Candidate, load_candidates
from store.events import BranchCompleted, Event, Outcome, StepScored
from store.trajectories import Fork, Trajectory, load_branches


class Verify:
    """Turns a candidate critical step into judged branches."""

    name = "verify"
    consumes: ClassVar[tuple[type[Event], ...]] = (StepScored,)

    def __init__(self, services: Services) -> None:
        self._services = services
        self.workers = services.settings.run.rollouts

    async def handle(self, event: Event) -> Result:
        """Branch at the step with each good alternative, and with the controls."""
        assert isinstance(event, StepScored)  # the only kind that it consumes
        if not event.critical:
            return nothing_more
        database, settings = self._services.database, self._services.settings
        candidates = await load_candidates(database, event.trajectory, event.step)
        failures: list[InfrastructureError] = []
        for number, alternative in enumerate(alternatives_to_verify(candidates, settings.critical.good_min)):
            branches = [(alternative, ordinal) for ordinal in range(settings.verify.rollouts)]
            if number == 0:
                branches += [(candidates[0], ordinal) for ordinal in range(settings.verify.controls)]
            try:
                await finish_all(partial(self._branch, event, candidate, ordinal) for candidate, ordinal in branches)
            except EndpointStopped:
                raise  # nothing more would be answered
            except InfrastructureError as error:
                if settings.verify.first_success:
                    raise  # going on would try what a success of this one leaves untried: trouble must not decide
                failures.append(error)
                continue
            if settings.verify.first_success and await self._flipped(alternative, candidates[0]):
                return nothing_more
        if failures:
            raise together(failures)
        return nothing_more

    async def _branch(self, event: Event, candidate: Candidate, ordinal: int) -> None:
        fork = Fork(parent=candidate.trajectory, step=candidate.step, candidate=candidate.id)
        completed = partial(_completed, candidate=candidate)
        await roll_out(self._services, event, ordinal=ordinal, fork=fork, rank=Rank.VERIFY, completed=completed)

    async def _flipped(self, alternative: Candidate, own: Candidate) -> bool:
        branches = await load_branches(self._services.database, alternative.trajectory, alternative.step)
        return verified(self._services.settings.verify, branches, alternative=alternative, own=own) is not None


def _completed(trajectory: Trajectory, _ended: Ended, outcome: Outcome, *, candidate: Candidate) -> BranchCompleted:
    return BranchCompleted(
        run=trajectory.run,
        task=trajectory.task,
        trajectory=trajectory.id,
        parent=candidate.trajectory,
        step=candidate.step,
        candidate=candidate.id,
        control=candidate.is_policys,
        outcome=outcome,
    )
