"""Chat messages as models see them: the one type that prompts, journal and preference files share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MessageRole = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation in the OpenAI chat form.

    `parts`, if given, are the texts that `content` was joined from. They tell the store what a later message will
    repeat, and take no part in comparisons.
    """

    role: MessageRole
    content: str
    parts: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def joined(cls, role: MessageRole, *parts: str) -> Message:
        """A message made of parts that other messages share."""
        return cls(role, "".join(parts), parts)
