"""How many tokens a request comes to: estimated from its length, and the estimate corrected by what was counted."""

from __future__ import annotations

from collections.abc import Sequence

_TOKENS_PER_BYTE = 0.25
_BOUNDS = (0.02, 1.0)
_WEIGHT = 0.1
_FEWEST_TOKENS = 16
# An image comes to some 1,500 tokens, however many bytes it has.
_IMAGE_BYTES = 6000


def size_of(body: bytes, images: Sequence[str]) -> int:
    """The bytes from which the tokens of a serialised request are estimated, given the data URLs in it."""
    return max(len(body) - sum(map(len, images)), 0) + len(images) * _IMAGE_BYTES


class TokenEstimate:
    """Tokens per byte of serialised request: a quarter to begin with, then a moving average of what was counted.

    Bytes rather than characters, because scripts that take more bytes a character also take more tokens.
    """

    def __init__(self) -> None:
        self._ratio = _TOKENS_PER_BYTE
        self._counted = 0

    def of(self, size: int) -> int:
        """About how many tokens a body of `size` bytes comes to."""
        return int(size * self._ratio)

    def correct(self, size: int, tokens: int) -> None:
        """Learn that a body of `size` bytes came to `tokens` tokens; 0, for not counted, teaches nothing."""
        if tokens < _FEWEST_TOKENS or not size:
            return
        self._counted += 1
        weight = max(_WEIGHT, 1 / self._counted)
        low, high = _BOUNDS
        self._ratio += weight * (min(max(tokens / size, low), high) - self._ratio)
