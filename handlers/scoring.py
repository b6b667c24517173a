"""Scoring of candidate actions by the process reward model: what it is asked, how its score is read.

The model sees the task, the progress state and the steps before the candidate's, never what running the candidate
would show or anything later. A reply that does not end in exactly the form that was asked for has no score; the
caller asks again and then leaves the candidate unscored, because a guessed number would decide which steps count.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from runtime.agents.main.replies import quiet_parsing, render_reply, without_thinking
from store.messages import Message

_SCORE = re.compile(
    r"(?:score:|\*\*score\*\*:|\*\*score:\*\*)[ \t]*([01](?:\.[0-9]+)?|\.[0-9]+)", re.IGNORECASE | re.ASCII
)
_MOST_TO_PARSE = 50_000


@dataclass(frozen=True, slots=True)
class RecentStep:
    """A step before the candidate's: its number from 0, the action taken and what it showed."""

    index: int
    thought: str
    code: str
    observation: str


def score_messages(
    *,
    question: str,
    state: str,
    recent: Sequence[RecentStep],
    index: int,
    thought: str,
    code: str,
    prompt: str | None = None,
) -> tuple[Message, ...]:
    """The request for the score of a candidate action of step `index`.

    `state` is the progress state as text; `recent` are the steps to show, oldest first, by the method the last
    three. `prompt` replaces the rubric that comes with the package.
    """
    parts = ["Task: ", question, f"\n\nProgress state at step {index}:\n", state]
    if recent:
        parts.append("\n\nRecent steps:")
    for step in recent:
        parts += [f"\nStep {step.index}:\n", render_reply(step.thought, step.code)]
        parts += [f"\nObservation of step {step.index}:\n", step.observation, "\n"]
    parts += ["\n" if recent else "\n\n", f"Candidate action of step {index}:\n", render_reply(thought, code)]
    rubric = _rubric() if prompt is None else prompt
    return Message("system", rubric), Message.joined("user", *parts, "\n\nScore this candidate.")


def parse_score(text: str) -> float | None:
    """The score from 0 to 1 that the last line with text gives as `Score: 0.72`, the word in bold or not.

    None for anything else: other forms, numbers out of range, or thinking that never ends.
    """
    answer = without_thinking(text)
    lines = answer.strip().splitlines() if answer else []
    match = _SCORE.fullmatch(lines[-1].strip()) if lines else None
    score = float(match[1]) if match else None
    return score if score is not None and score <= 1 else None


def normalise_code(code: str) -> str:
    """A text that two programs share when they differ in nothing but comments, layout and spelling of literals."""
    # Parsing holds up the whole interpreter, whatever thread does it.
    if len(code) <= _MOST_TO_PARSE:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError, SystemError), quiet_parsing():
            return ast.unparse(ast.parse(code))
    # What is too long, does not parse, or is too deep to be written out again is compared line by line.
    return "\n".join(line.rstrip() for line in code.splitlines() if line.strip())


@cache
def _rubric() -> str:
    return files("handlers").joinpath("prompts", "score.txt").read_text(encoding="utf-8").strip()
