"""Where rollouts run. A rollout needs its task, its journal and its workspace, so it is the unit that can move."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from runtime.rollout import Ended, Equipment, run_rollout
from runtime.slots import Slots
from store.tasks import Task
from store.trajectories import Trajectory


class Rank(IntEnum):
    """Which rollouts go first when places are short: the later the stage, the higher."""

    COLLECT = 0
    VERIFY = 1


class Executor(Protocol):
    """Runs rollouts to their end."""

    async def run(self, trajectory: Trajectory, task: Task, rank: Rank) -> Ended:
        """Run a rollout, from wherever it stands, when a place is free.

        Raises:
            InfrastructureError: it could not go on; what it has done is kept and it can be run again.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Runs rollouts on this process's event loop, a limited number at a time."""

    equipment: Equipment
    slots: Slots

    async def run(self, trajectory: Trajectory, task: Task, rank: Rank) -> Ended:
        """Run a rollout here."""
        async with self.slots.hold(rank):
            return await run_rollout(self.equipment, trajectory, task)
