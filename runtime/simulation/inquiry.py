"""A request to a stand-in, as the stand-ins read it.

Owns the reading of prompts: which task they are about, which step, which module asks. Only the contents of the
messages and the seed count, never the headers nor what was asked before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runtime.simulation.chance import key_number

# Long prompts end in what is asked for, so only their tails are searched.
_TAIL = 200
_STEP = re.compile(r"Write the (plan|action) of step (\d{1,6})\.\s*\Z")
_END = re.compile(r"Write the final result\.\s*\Z")


class InquiryError(ValueError):
    """Raised when a request body is not a chat completion request."""


class Module(StrEnum):
    """What a request to the policy or the expert asks for."""

    PLAN = "plan"
    ACTION = "action"
    END = "end"
    DIRECT = "direct"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A request: the model's name, the first and last user messages, and the seed (derived where none is given)."""

    model: str
    first: str
    last: str
    seed: int

    @property
    def module(self) -> Module:
        """What is asked for, going by how the last message ends or begins."""
        tail = self.last[-_TAIL:]
        if found := _STEP.search(tail):
            return Module(found[1])
        if _END.search(tail):
            return Module.END
        return Module.DIRECT if self.last.startswith("Task: ") else Module.ASK

    @property
    def step(self) -> int:
        """The step that a plan or action request is about, 0 for others."""
        found = _STEP.search(self.last[-_TAIL:])
        return int(found[2]) if found else 0

    @property
    def topic(self) -> str:
        """The first paragraph of the first user message, by which a task that is not of the world is known again."""
        return self.first.partition("\n\n")[0].removeprefix("Task: ").removeprefix("Question:\n")

    def between(self, opening: str, closing: str) -> str:
        """Return what stands in the last message between an opening (its last occurrence) and a closing, or ""."""
        start = self.last.rfind(opening)
        if start < 0:
            return ""
        start += len(opening)
        end = self.last.find(closing, start)
        return self.last[start:end] if end >= 0 else self.last[start:]


def read_inquiry(body: Any) -> Inquiry:  # JSON from outside: anything
    """Read the body of a chat completion request; raises InquiryError where it is none."""
    if not isinstance(body, Mapping):
        raise InquiryError("the body is not an object")
    model, messages, seed = body.get("model"), body.get("messages"), body.get("seed")
    if not isinstance(model, str) or not model:
        raise InquiryError("you must provide a model parameter")
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InquiryError("'messages' must be a list with at least one message")
    users = [_text(message) for message in messages if _role(message) == "user"]
    if not users:
        raise InquiryError("there is no user message")
    if not isinstance(seed, int):
        seed = key_number(*map(_text, messages))
    return Inquiry(model, users[0], users[-1], seed)


def _role(message: Any) -> str:
    if not isinstance(message, Mapping) or not isinstance(role := message.get("role"), str):
        raise InquiryError("each message needs a role")
    return role


def _text(message: Any) -> str:
    """The text of a message, whose content may be in parts."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    raise InquiryError("each message needs a content")
