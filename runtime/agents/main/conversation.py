"""The conversations of the main agent: what the policy sees before a plan, an action and the end.

After the system message, user and assistant take turns: the task, then the last steps as the policy wrote them with
their observations; the last user message ends with the progress state and what is asked for. Steps older than
`recent_steps` are left to the progress state. A step without an action has no turn of the assistant, only an
observation: providers take no empty turns, and nothing may be put into the policy's mouth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runtime.agents.base import StopReason
from runtime.agents.shortening import shorten_oldest
from store.messages import Message
from store.trajectories import Step


def conversation(
    *,
    system: str,
    question: str,
    files: Sequence[str],
    steps: Sequence[Step],
    recent_steps: int,
    closing: Sequence[str],
) -> tuple[Message, ...]:
    """The messages of a call; `closing` are the parts that end the last user message."""
    first_shown = max(0, len(steps) - recent_steps)
    turns: list[Message] = [Message("system", system)]
    user = _task_parts(question, files, first_shown)
    for step in steps[first_shown:]:
        if step.action.strip():
            turns += [Message.joined("user", *user), Message("assistant", step.action)]
            user = []
        else:
            user.append("\n\n")
        user += [f"Observation of step {step.index}:\n", step.observation]
    turns.append(Message.joined("user", *user, "\n\n", *closing))
    return tuple(turns)


def shorten_observations(steps: Sequence[Step], *, recent_steps: int, excess: int) -> tuple[Step, ...]:
    """The steps with up to `excess` characters less in the observations that are shown, the oldest ones' first."""
    first_shown = max(0, len(steps) - recent_steps)
    shown = steps[first_shown:]
    shorter = shorten_oldest([step.observation for step in shown], excess)
    return (
        *steps[:first_shown],
        *(replace(step, observation=text) for step, text in zip(shown, shorter, strict=True)),
    )


def plan_closing(state: str, index: int) -> tuple[str, ...]:
    """What a plan request ends with."""
    return (f"Progress state before step {index}:\n", state, f"\n\nWrite the plan of step {index}.")


def action_closing(state: str, index: int) -> tuple[str, ...]:
    """What an action request ends with."""
    return (f"Progress state at step {index}:\n", state, f"\n\nWrite the action of step {index}.")


def end_closing(state: str, *, reason: StopReason, output: str | None, direct: str | None) -> tuple[str, ...]:
    """What an end request ends with: the way the run ended, its result, and a direct answer after an early end."""
    parts = ["Progress state at the end:\n", state, f"\n\nThe run ended: {reason}.\n", "Result given: "]
    parts.append(output if output is not None else "none")
    if direct is not None:
        parts += ["\nDirect answer to the task: ", direct]
    return (*parts, "\n\nWrite the final result.")


def _task_parts(question: str, files: Sequence[str], first_shown: int) -> list[str]:
    parts = ["Task: ", question]
    if files:
        parts.append(f"\n\nFiles: {', '.join(files)}")
    if first_shown > 0:
        parts.append(f"\n\n(Steps 0 to {first_shown - 1} are not shown; the progress state keeps what they found.)")
    return parts
