"""The facts that travel on the bus and stay in the log: one frozen dataclass a kind.

Every event belongs to a run and mostly to a task, and gets its `seq` and `time` when it is committed. Its own
fields are stored as a JSON array in the order of the class, so a field may be added at the end with a default,
and none may be moved. Identifiers are those of the database's rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Self

import orjson

from store.jsontypes import JsonValue

Outcome = Literal["success", "failure", "error"]
ENVELOPE = ("run", "task", "seq", "time", "priority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all kinds share."""

    kind: ClassVar[str] = ""
    run: int
    task: int | None = None
    seq: int = 0  # 0 until committed, then its place in the order of all events
    time: int = 0  # microseconds since 1970, UTC, at the commit
    priority: int = 0  # of its task, where it is owed to a handler; about the order of work, and not in the log

    @classmethod
    def own_fields(cls) -> tuple[str, ...]:
        """The names of the fields that this kind adds, in order."""
        return tuple(field.name for field in fields(cls) if field.name not in ENVELOPE)

    def body(self) -> bytes:
        """The stored form of the kind's own fields."""
        return orjson.dumps([getattr(self, name) for name in _OWN_FIELDS[self.kind]])

    def facts(self) -> dict[str, JsonValue]:
        """The kind's own fields by name, for people and programs that read the log."""
        return {name: getattr(self, name) for name in _OWN_FIELDS[self.kind]}

    def stamped(self, *, seq: int, time: int, priority: int = 0) -> Self:
        """The same fact with its place in the log."""
        # Some are stamped thousands of times a second, for which `dataclasses.replace` is slow.
        own = {name: getattr(self, name) for name in _OWN_FIELDS[self.kind]}
        return type(self)(run=self.run, task=self.task, seq=seq, time=time, priority=priority, **own)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A run was created, with the digest of its identity."""

    kind: ClassVar[str] = "run-started"
    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChanged(Event):
    """A person decided that a run goes on with other settings, or another program, than it was begun with."""

    kind: ClassVar[str] = "run-changed"
    before: str  # digest of the identity until now
    digest: str  # of the one from now on
    changes: dict[str, list[JsonValue]]  # by dotted key the value until now and from now on; null: it had none


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """Work went on after a stop; what had been left open when it did."""

    kind: ClassVar[str] = "resumed"
    deliveries: int  # events still owed to handlers
    trajectories: int  # rollouts that had begun and not ended
    steps: int  # committed steps of those rollouts, which are not run again
    calls: int  # journalled replies of those rollouts, which are not paid again


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmitted(Event):
    """A task was taken into the queue."""

    kind: ClassVar[str] = "task-submitted"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCompleted(Event):
    """A model reply was paid for and journalled."""

    kind: ClassVar[str] = "call-completed"
    trajectory: int
    step: int  # -1: of the trajectory as a whole
    role: str
    module: str
    prompt_tokens: int
    completion_tokens: int
    cost: int | None = None  # millionths of the currency of the prices; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted(Event):
    """An action was executed and its step is a checkpoint."""

    kind: ClassVar[str] = "step-completed"
    trajectory: int
    step: int
    failed: bool  # the code ended in an error, or there was none that could be run


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryCompleted(Event):
    """A policy's own rollout of a task has ended and was judged."""

    kind: ClassVar[str] = "trajectory-completed"
    trajectory: int
    steps: int
    stop_reason: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScored(Event):
    """The candidates of a step have their scores, or could not be scored."""

    kind: ClassVar[str] = "step-scored"
    trajectory: int
    step: int
    score: float | None  # of the policy's own action; None: unscored
    alternatives: int  # distinct alternatives asked for and scored
    good: int  # those above good_min
    critical: bool  # the policy's action is bad and an alternative is good


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchCompleted(Event):
    """A branch has ended and was judged; a control takes the policy's own action again."""

    kind: ClassVar[str] = "branch-completed"
    trajectory: int
    parent: int
    step: int
    candidate: int
    control: bool
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVerified(Event):
    """A step proved critical: a preference pair was made."""

    kind: ClassVar[str] = "pair-verified"
    pair: int
    trajectory: int
    step: int
    candidate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFinished(Event):
    """Nothing of the task is open any more."""

    kind: ClassVar[str] = "task-finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelled(Event):
    """A person gave the task up; what was still owed for it is dropped, what is stored stays."""

    kind: ClassVar[str] = "task-cancelled"
    deliveries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpent(Event):
    """A cap of the budget was reached: nothing new is begun for the task, or without one for the whole run."""

    kind: ClassVar[str] = "budget-spent"
    setting: str  # the cap's dotted key
    cap: float
    spent: float  # what was bought when it was met, in the same unit


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFailed(Event):
    """A handler failed on an event: it is tried again later, or set aside."""

    kind: ClassVar[str] = "delivery-failed"
    handler: str
    event: int
    attempt: int
    dead: bool
    error: str


KINDS: dict[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        RunStarted,
        RunChanged,
        Resumed,
        TaskSubmitted,
        CallCompleted,
        StepCompleted,
        TrajectoryCompleted,
        StepScored,
        BranchCompleted,
        PairVerified,
        TaskFinished,
        TaskCancelled,
        BudgetSpent,
        DeliveryFailed,
    )
}
_OWN_FIELDS = {name: kind.own_fields() for name, kind in KINDS.items()}


def decode_event(
    kind: str, *, run: int, task: int | None, seq: int, time: int, body: bytes, priority: int = 0
) -> Event:
    """The event that a row of the log holds.

    Raises:
        ValueError: the kind is unknown (a later release or a plug-in wrote it) or the body does not fit it.
    """
    known = KINDS.get(kind)
    if known is None:
        raise ValueError(f"event {seq} has the unknown kind {kind!r}")
    values = orjson.loads(body)
    own = dict(zip(_OWN_FIELDS[kind], values, strict=False))
    try:
        return known(run=run, task=task, seq=seq, time=time, priority=priority, **own)
    except TypeError as error:
        raise ValueError(f"event {seq} of kind {kind} has a body that does not fit: {error}") from error
