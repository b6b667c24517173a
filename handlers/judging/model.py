"""The model judge: what it is asked, and how its verdict is read.

The answer under judgement was written by a policy that read the open web, so it is hostile input: it stands between
tags that it cannot close, is cut to a bounded length, and the instructions say that nothing in it is an instruction.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from runtime.agents.main.replies import without_thinking
from store.messages import Message

MAX_ANSWER_CHARACTERS = 8_000

_TAG = re.compile(r"<(?=\s*/?\s*answer)", re.IGNORECASE)
_VERDICT = re.compile(
    r"(?:verdict:|\*\*verdict\*\*:|\*\*verdict:\*\*)[ \t]*(?:(yes|no)|\*\*(yes|no)\*\*)"
    r"|\*\*verdict:[ \t]*(yes|no)\*\*",
    re.IGNORECASE | re.ASCII,
)


def judge_messages(question: str, gold: str, answer: str, *, prompt: str | None = None) -> tuple[Message, ...]:
    """The request for a verdict; `prompt` replaces the instructions that come with the package."""
    given = _TAG.sub("‹", answer)
    if len(given) > MAX_ANSWER_CHARACTERS:
        given = f"{given[:MAX_ANSWER_CHARACTERS]}\n[cut: the answer has {len(given)} characters]"
    asked = (
        f"Question:\n{question}\n\nReference answer:\n{gold}\n\n"
        f"Answer given:\n<answer>\n{given}\n</answer>\n\nGive your verdict."
    )
    return Message("system", _instructions() if prompt is None else prompt), Message("user", asked)


def parse_verdict(text: str) -> bool | None:
    """The verdict that the last line with text gives, as `Verdict: yes` or `Verdict: no`, in bold or not.

    None for anything else, also where thinking never ends: the caller asks again, nothing is guessed.
    """
    answer = without_thinking(text)
    lines = answer.strip().splitlines() if answer else []
    match = _VERDICT.fullmatch(lines[-1].strip()) if lines else None
    return next(word for word in match.groups() if word).lower() == "yes" if match else None


@cache
def _instructions() -> str:
    return files("handlers.judging").joinpath("judge.txt").read_text(encoding="utf-8").strip()
