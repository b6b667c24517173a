"""Limits on requests and tokens per minute, from settings and from `x-ratelimit-*` headers.

Two buckets fill steadily and hold at most a tenth of a minute's worth, so that a minute never sees much more
than its limit even after a quiet one. Tokens are taken on an estimate and settled by the usage reported back.
What servers report is used only to stop: a remainder of nothing closes the gate until its reset. Their limits
are not, since some count by day and do not say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.models.retry import time_span

if TYPE_CHECKING:
    from collections.abc import Mapping

_BURST_SECONDS = 6.0
HEADER_PREFIX = "x-ratelimit-"


class _Bucket:
    """Allowance that grows by `per_minute / 60` a second; may go below zero, which later takers pay for."""

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60.0
        self._capacity = max(1.0, self._rate * _BURST_SECONDS)
        self._level = self._capacity
        self._at = 0.0

    def delay(self, now: float, amount: float) -> float:
        """Seconds until `amount` may be taken; what is more than the bucket ever holds waits for it to be full."""
        self._level = min(self._capacity, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(amount, self._capacity) - self._level) / self._rate)

    def take(self, amount: float) -> None:
        self._level -= amount


class RateGate:
    """Says when the next call may start. All times are those of the event loop's clock."""

    def __init__(self, *, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._requests = _Bucket(requests_per_minute) if requests_per_minute else None
        self._tokens = _Bucket(tokens_per_minute) if tokens_per_minute else None
        self._closed_until = 0.0

    def delay(self, now: float, tokens: int) -> float:
        """Seconds to wait before a call of about `tokens` tokens may start; 0 if it may start now."""
        wait = max(0.0, self._closed_until - now)
        if self._requests is not None:
            wait = max(wait, self._requests.delay(now, 1.0))
        if self._tokens is not None:
            wait = max(wait, self._tokens.delay(now, tokens))
        return wait

    def take(self, tokens: int) -> None:
        """Book a call that starts now."""
        if self._requests is not None:
            self._requests.take(1.0)
        if self._tokens is not None:
            self._tokens.take(tokens)

    def settle(self, estimated: int, used: int) -> None:
        """Correct a call's estimate by what it used."""
        if self._tokens is not None:
            self._tokens.take(used - estimated)

    def learn(self, headers: Mapping[str, str], now: float) -> None:
        """Close the gate where the endpoint reports that nothing is left; names of headers in lower case."""
        for what in ("requests", "tokens"):
            remaining = headers.get(f"{HEADER_PREFIX}remaining-{what}", "")
            reset = time_span(headers.get(f"{HEADER_PREFIX}reset-{what}", ""))
            if reset is not None and remaining.strip() == "0":
                self._closed_until = max(self._closed_until, now + reset)
