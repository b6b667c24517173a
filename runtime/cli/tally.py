"""The counts behind the progress display: begun from what is stored, kept up from the events of this process."""

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
    TaskFinished,
    TaskSubmitted,
    TrajectoryCompleted,
)
from store.spending import MICROS, add_up
from store.summary import Summary


@dataclass(slots=True, kw_only=True)
class Tally:
    """A run's progress. Counters are by outcome; `expected_…` grow as earlier stages find work for later ones."""

    rollouts_per_task: int
    expected_rollouts: int
    tasks: int = 0
    tasks_finished: int = 0
    rollouts: Counter[str] = field(default_factory=Counter)
    expected_scores: int = 0
    scored: int = 0
    critical: int = 0
    branches: Counter[str] = field(default_factory=Counter)
    controls: int = 0
    pairs: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    cost: float = 0.0
    failed_deliveries: int = 0

    @classmethod
    def begun(cls, summary: Summary, *, trajectories: int) -> Tally:
        """The counts of a run as it stands; `trajectories` are collected for each task."""
        done, branches = summary.trajectories, summary.branches
        return cls(
            rollouts_per_task=trajectories,
            expected_rollouts=summary.tasks * trajectories,
            tasks=summary.tasks,
            tasks_finished=summary.tasks_finished,
            rollouts=Counter(success=done.success, failure=done.failure),
            expected_scores=summary.failed_steps,
            scored=summary.steps_scored + summary.steps_unscored,
            critical=summary.critical_candidates,
            branches=Counter(success=branches.success, failure=branches.failure),
            controls=summary.controls.success + summary.controls.failure,
            pairs=summary.pairs,
            calls=Counter(summary.calls),
            tokens=sum(summary.tokens.values()),
            cost=add_up(summary.spending).cost or 0.0,
        )

    def note(self, event: Event) -> None:
        """Count an event."""
        match event:
            case TaskSubmitted():
                self.tasks += 1
                self.expected_rollouts += self.rollouts_per_task
            case CallCompleted():
                self.calls[event.role] += 1
                self.tokens += event.prompt_tokens + event.completion_tokens
                self.cost += (event.cost or 0) / MICROS
            case TrajectoryCompleted():
                self.rollouts[event.outcome] += 1
                self.expected_scores += event.steps if event.outcome == "failure" else 0
            case StepScored():
                self.scored += 1
                self.critical += event.critical
            case BranchCompleted(control=True):
                self.controls += 1
            case BranchCompleted():
                self.branches[event.outcome] += 1
            case PairVerified():
                self.pairs += 1
            case TaskFinished():
                self.tasks_finished += 1
            case DeliveryFailed():
                self.failed_deliveries += 1
