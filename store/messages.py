"""Chat messages as models see them: the one type that prompts, journal and preference files share."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Literal

MessageRole = Literal["system", "user", "assistant"]
ImageFormat = Literal["png", "jpeg", "gif", "webp"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation in the OpenAI chat form.

    `parts`, if given, are the texts that `content` was joined from. They tell the store what a later message will
    repeat, and take no part in comparisons. `images` are data URLs (see `image_url`) and come after the text.
    """

    role: MessageRole
    content: str
    parts: tuple[str, ...] = field(default=(), compare=False, repr=False)
    images: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def joined(cls, role: MessageRole, *parts: str) -> Message:
        """A message made of parts that other messages share."""
        return cls(role, "".join(parts), parts)


def image_url(content: bytes, kind: ImageFormat) -> str:
    """The data URL of an image, the form in which messages carry one."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image_parts(url: str) -> tuple[str, str]:
    """The format of an image, such as png, and its content in base64, out of its data URL."""
    head, _, content = url.partition(",")
    return head.removeprefix("data:image/").removesuffix(";base64"), content
