"""What a daemon has done since it started, counted from its events: the counters behind `/metrics`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from store.events import (
    BranchCompleted,
    CallCompleted,
    DeliveryFailed,
    Event,
    PairVerified,
    StepScored,
    TaskCancelled,
    TaskFinished,
    TaskSubmitted,
    TrajectoryCompleted,
)
from store.spending import MICROS


@dataclass(slots=True, kw_only=True)
class Counts:
    """Counters that begin at 0 with the daemon. Money is in the currency of the prices."""

    tasks_submitted: int = 0
    tasks_finished: int = 0
    tasks_cancelled: int = 0
    pairs: int = 0
    steps_scored: int = 0
    rollouts: Counter[tuple[str, str]] = field(default_factory=Counter)  # by sort and outcome
    calls: Counter[str] = field(default_factory=Counter)  # by role, as are the next four
    prompt_tokens: Counter[str] = field(default_factory=Counter)
    completion_tokens: Counter[str] = field(default_factory=Counter)
    micros: Counter[str] = field(default_factory=Counter)
    unpriced: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)  # by handler

    def cost(self, role: str) -> float:
        """What a role's calls of known cost have cost."""
        return self.micros[role] / MICROS

    def note(self, event: Event) -> None:
        """Count an event; this is for the bus to call."""
        match event:
            case CallCompleted():
                self.calls[event.role] += 1
                self.prompt_tokens[event.role] += event.prompt_tokens
                self.completion_tokens[event.role] += event.completion_tokens
                self.micros[event.role] += event.cost or 0
                self.unpriced[event.role] += event.cost is None
            case TrajectoryCompleted():
                self.rollouts["trajectory", event.outcome] += 1
            case BranchCompleted():
                self.rollouts["control" if event.control else "branch", event.outcome] += 1
            case StepScored():
                self.steps_scored += 1
            case PairVerified():
                self.pairs += 1
            case TaskSubmitted():
                self.tasks_submitted += 1
            case TaskFinished():
                self.tasks_finished += 1
            case TaskCancelled():
                self.tasks_cancelled += 1
            case DeliveryFailed():
                self.failures[event.handler] += 1
