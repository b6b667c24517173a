"""What happened, in one line for people, and how much it matters. Where it happened stands beside the line.

Names, errors and reasons come from users and models: whatever could move the cursor or break the line is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

from store.jsontypes import JsonValue
from store.log import Entry

Fields: TypeAlias = Mapping[str, JsonValue]


class Tone(Enum):
    """How much an event matters; the value is its ANSI colour, none for what is neither good nor bad."""

    QUIET = "2"  # dim: there are many of them
    PLAIN = ""
    NOTE = "36"  # cyan: about the run itself, or a promising find
    GOOD = "32"  # green: success, evidence
    BAD = "33"  # yellow: a failure that the method lives on, or that is tried again
    ALARM = "31"  # red: a person should look


def sentence(entry: Entry) -> tuple[str, Tone]:
    """What happened, in one line of printable text."""
    tell = _SENTENCES.get(entry.kind)
    text, tone = tell(entry.fields) if tell else (_bare(entry.fields), Tone.PLAIN)
    return printable(text), tone


def printable(text: str) -> str:
    """The text on one line, with a dot instead of each control or formatting character."""
    return "".join(char if char.isprintable() else "·" for char in " ".join(text.split()))


def _bare(own: Fields) -> str:
    return ", ".join(f"{name} {value}" for name, value in own.items())


def _run_started(own: Fields) -> tuple[str, Tone]:
    return f"run {own['name']} begun (settings {str(own['digest'])[:12]})", Tone.NOTE


def _run_changed(own: Fields) -> tuple[str, Tone]:
    changes = own["changes"]
    keys = ", ".join(changes) if isinstance(changes, dict) else ""
    return f"goes on with changes (settings {str(own['digest'])[:12]}): {keys}", Tone.NOTE


def _resumed(own: Fields) -> tuple[str, Tone]:
    return (
        f"went on from where it stopped: deliveries owed {own['deliveries']};"
        f" rollouts under way {own['trajectories']}, of which {own['steps']} steps and {own['calls']} paid replies"
        " were kept",
        Tone.NOTE,
    )


def _task_submitted(_own: Fields) -> tuple[str, Tone]:
    return "taken into the queue", Tone.PLAIN


def _call_completed(own: Fields) -> tuple[str, Tone]:
    step = "" if own["step"] == -1 else f"step {own['step']}: "
    tokens = f"{own['prompt_tokens']} + {own['completion_tokens']} tokens"
    return f"{step}{own['role']} replied to {own['module']}, {tokens}", Tone.QUIET


def _step_completed(own: Fields) -> tuple[str, Tone]:
    return f"step {own['step']}: {'its code failed' if own['failed'] else 'done'}", Tone.QUIET


def _trajectory_completed(own: Fields) -> tuple[str, Tone]:
    reason = "" if own["stop_reason"] == "stopped" else f" ({own['stop_reason']})"
    return f"{own['outcome']} after {own['steps']} steps{reason}", _outcome_tone(own)


def _step_scored(own: Fields) -> tuple[str, Tone]:
    score = own["score"]
    if not isinstance(score, int | float):
        return f"step {own['step']}: could not be scored", Tone.BAD
    critical, tone = (", candidate critical step", Tone.NOTE) if own["critical"] else ("", Tone.PLAIN)
    asked = f", {own['good']} of {own['alternatives']} alternatives good" if own["alternatives"] else ""
    return f"step {own['step']}: score {score:.2f}{critical}{asked}", tone


def _branch_completed(own: Fields) -> tuple[str, Tone]:
    taken = "the policy's own action again" if own["control"] else f"alternative {own['candidate']}"
    return f"{own['outcome']}: {taken} at step {own['step']}", _outcome_tone(own)


def _pair_verified(own: Fields) -> tuple[str, Tone]:
    return f"pair {own['pair']}: alternative {own['candidate']} at step {own['step']}", Tone.GOOD


def _budget_spent(own: Fields) -> tuple[str, Tone]:
    return f"{own['setting']} reached ({own['spent']} of {own['cap']}): nothing new is begun", Tone.ALARM


def _task_finished(_own: Fields) -> tuple[str, Tone]:
    return "finished", Tone.PLAIN


def _task_cancelled(own: Fields) -> tuple[str, Tone]:
    return f"cancelled, open deliveries dropped: {own['deliveries']}", Tone.BAD


def _delivery_failed(own: Fields) -> tuple[str, Tone]:
    what = "set aside" if own["dead"] else "to be tried again"
    place = f"{own['handler']} on event {own['event']}"
    return f"{place} failed at attempt {own['attempt']}, {what}: {own['error']}", (
        Tone.ALARM if own["dead"] else Tone.BAD
    )


def _outcome_tone(own: Fields) -> Tone:
    return {"success": Tone.GOOD, "failure": Tone.BAD}.get(str(own["outcome"]), Tone.ALARM)


_SENTENCES: Mapping[str, Callable[[Fields], tuple[str, Tone]]] = MappingProxyType(
    {
        "run-started": _run_started,
        "run-changed": _run_changed,
        "resumed": _resumed,
        "task-submitted": _task_submitted,
        "call-completed": _call_completed,
        "step-completed": _step_completed,
        "trajectory-completed": _trajectory_completed,
        "step-scored": _step_scored,
        "branch-completed": _branch_completed,
        "pair-verified": _pair_verified,
        "budget-spent": _budget_spent,
        "task-finished": _task_finished,
        "task-cancelled": _task_cancelled,
        "delivery-failed": _delivery_failed,
    }
)
