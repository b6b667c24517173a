"""Collect: the policy attempts each task, and a judge says whether it succeeded."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from handlers.rollouts import finish_all, roll_out
from runtime.executor import Rank
from runtime.handler import Result, nothing_more
from runtime.rollout import Ended
from runtime.services import Services
from store.events import Event, Outcome, TaskSubmitted, TrajectoryCompleted
from store.trajectories import Trajectory


class Collect:
    """Turns a submitted task into judged trajectories."""

    name = "collect"
    consumes: ClassVar[tuple[type[Event], ...]] = (TaskSubmitted,)

    def __init__(self, services: Services) -> None:
        self._services = services
        self.workers = services.settings.run.rollouts

    async def handle(self, event: Event) -> Result:
        """Roll out the policy `run.trajectories` times on the task."""
        await finish_all(
            partial(
                roll_out,
                self._services,
                event,
                ordinal=ordinal,
                fork=None,
                rank=Rank.COLLECT,
                completed=_completed,
            )
            for ordinal in range(self._services.settings.run.trajectories)
        )
        return nothing_more


def _completed(trajectory: Trajectory, ended: Ended, outcome: Outcome) -> TrajectoryCompleted:
    return TrajectoryCompleted(
        run=trajectory.run,
        task=trajectory.task,
        trajectory=trajectory.id,
        steps=ended.steps,
        stop_reason=ended.reason,
        outcome=outcome,
    )
