"""What failures have in common: the text of an error without what differs from one failure to the next."""

from __future__ import annotations

import re

# What an endpoint said mostly repeats the request, the hour or an id; the whole text stays with the error.
_SAID = re.compile(r"; it said: .*", re.DOTALL)
_LEFT_OUT = (
    re.compile(r",? ?\brequest [^\s,)]+"),
    re.compile(r",? ?\b\d+ attempts\b"),
    re.compile(r" \(and \d+ more\)$"),
    re.compile(r" ?\(\)"),
)
_ROLLOUT = re.compile(r"\S+/\d+(@\d+\.\d+\.\d+)?(?![\w/.])")
_PLACE = re.compile(r"\b(step|delivery|event|process) \d+")


def cause_of(error: str) -> str:
    """The cause that an error's text names, in one line: the same for failures that one remedy would end."""
    cause = _SAID.sub("", error)
    for pattern in _LEFT_OUT:
        cause = pattern.sub("", cause)
    cause = _PLACE.sub(r"\1 N", _ROLLOUT.sub("a rollout", cause))
    return cause.replace("(, ", "(").strip().partition("\n")[0]
