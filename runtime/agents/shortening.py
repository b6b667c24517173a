"""What is left out where texts are too long: the middle of one, and of several that of the oldest first."""

from __future__ import annotations

from collections.abc import Sequence

STUB_CHARACTERS = 400
"""What a text keeps at the least when it makes room for others."""
MARK_CHARACTERS = 40
"""About what it takes to say how much was left out."""


def shorten(text: str, limit: int) -> str:
    """The beginning and the end of a text that is too long, with the number of characters left out between."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[len(text) - half :]}"


def shorten_oldest(texts: Sequence[str], excess: int) -> list[str]:
    """The texts, which are given oldest first, with about `excess` characters less in all, if they have that many.

    The oldest gives up all that it can before the next one has to.
    """
    kept = []
    for text in texts:
        rest = max(STUB_CHARACTERS, len(text) - excess - MARK_CHARACTERS)
        short = shorten(text, rest) if excess > 0 and len(text) > rest + MARK_CHARACTERS else text
        excess -= len(text) - len(short)
        kept.append(short)
    return kept
