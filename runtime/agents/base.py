"""What an agent is: a small object that thinks and acts, around which the runtime's loop does the rest.

Budget, checkpoints, events and stop reasons are the loop's and the same for every agent, so any agent written to
these verbs can be resumed, branched and verified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from runtime.models.journal import Journal
from runtime.sandbox import Limits, Sandbox
from runtime.search import Search
from runtime.workspaces import Workspace
from store.tasks import Task
from store.trajectories import Step


class StopReason(StrEnum):
    """Why a rollout's loop ended; the values go into prompts and records."""

    STOPPED = "stopped"  # the policy called stop()
    MAX_STEPS = "max-steps"  # the step budget is spent
    TIME_LIMIT = "time-limit"  # the time budget is spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action as a model wrote it.

    `text` is the form in which it is stored, shown in later prompts and put into preference pairs: it reads back to
    the same thought and code. `problem` tells the model why there is no code to run; then `text` is the raw reply,
    empty where there was none.
    """

    text: str
    thought: str
    code: str
    problem: str | None = None

    @property
    def usable(self) -> bool:
        """Whether there is code to run."""
        return self.problem is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an agent is about to do: an action, the progress state at it, and the journalled call it came from.

    Without a call the action is not the policy's own: a branch was given it, or a content filter let none through.
    `seconds` is the time that the models took for it, without waiting and retries, which are not the policy's.
    """

    action: Action
    state: str
    call: int | None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """What became of an action.

    `seconds` is the time that its code and the models it asked took, without waiting and retries; `result` is the
    JSON of what stop() was given, None if it was not called.
    """

    observation: str
    failed: bool
    seconds: float = 0.0
    result: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The final result of a rollout; `output` is what the judge sees, empty for no answer."""

    output: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an agent has to work with at one step.

    `steps` are those before it, in order; `files` the names of the files that came with the task; `seconds_left` what
    is left of the time budget, without end where the step is due in any case.
    """

    task: Task
    files: tuple[str, ...]
    steps: tuple[Step, ...]
    workspace: Workspace
    journal: Journal
    sandbox: Sandbox
    limits: Limits
    search: Search
    search_limit: int
    seconds_left: float = math.inf

    @property
    def index(self) -> int:
        """The number of the step, counted from 0."""
        return len(self.steps)


class Agent(Protocol):
    """The verbs of an agent."""

    @property
    def name(self) -> str:
        """By which the settings choose it."""
        ...

    async def read(self, reply: str) -> Action:
        """The action that a reply to an action request holds."""
        ...

    async def think(self, context: Context) -> Decision:
        """Decide on the next action; model calls go through the context's journal.

        Raises:
            InfrastructureError: a model could not be reached.
        """
        ...

    async def act(self, decision: Decision, context: Context) -> Acted:
        """Execute an action.

        Raises:
            InfrastructureError: the sandbox, or a model that the code asked, could not be reached.
        """
        ...

    async def conclude(self, context: Context, reason: StopReason) -> Answer:
        """Give the final result once the loop has ended.

        Raises:
            InfrastructureError: a model could not be reached.
        """
        ...
