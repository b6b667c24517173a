"""One chat completion on its way, from its first attempt to its last, whichever replicas they go to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from runtime.models.chat import ChatReply
from runtime.models.faults import Fault

Keep = Callable[[ChatReply], None]


@dataclass(slots=True, kw_only=True)
class Call:
    """What is sent, until when (loop time), and how it has gone so far.

    `size` is that of the body for estimating its tokens (see `size_of`), `tokens` what the call is expected to use,
    the reply included. `fault` is that of the last attempt.
    """

    body: bytes
    stop: tuple[str, ...]
    headers: dict[str, str]
    deadline: float
    size: int
    tokens: int
    keep: Keep | None
    most_attempts: int
    attempts: int = 0
    immediate: int = 0
    delayed: int = 0
    fault: Fault | None = None


def header_values(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers as HTTP can carry them: percent-encoded where they are not plain text."""
    return {
        name: value if value.isascii() and value.isprintable() else quote(value, safe=" ")
        for name, value in headers.items()
    }
