"""Limits on requests and tokens per minute, from settings and from `x-ratelimit-*` headers.

Two buckets fill steadily and hold at most a tenth of a minute's worth, so that a minute never sees much more
than its limit even after a quiet one. Tokens are taken on an estimate and settled by the usage reported back.

Of what servers report, a remainder of nothing closes the gate until its reset. Their limits count by minute, by day
or by second, and do not say so; but where a limit refills steadily, as with OpenAI and Anthropic, the reset is when
it is whole again, and so tells how long all of it takes. One that takes a minute is kept to as if it had been set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from runtime.models.retry import number, time_span

if TYPE_CHECKING:
    from collections.abc import Mapping

_BURST_SECONDS = 6.0
# Resets are rounded; further off it is another period, or a limit that does not refill steadily.
_A_MINUTE = (54.0, 66.0)
HEADER_PREFIX = "x-ratelimit-"


class _Bucket:
    """Allowance that grows by `per_minute / 60` a second; may go below zero, which later takers pay for."""

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
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
    """Says when the next call may start. All times are those of the event loop's clock.

    A limit of None is none, until the endpoint reports one.
    """

    def __init__(self, *, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._requests = _Bucket(requests_per_minute) if requests_per_minute else None
        self._tokens = _Bucket(tokens_per_minute) if tokens_per_minute else None
        self._learns_requests, self._learns_tokens = self._requests is None, self._tokens is None
        self._closed_until = 0.0

    def delay(self, now: float, tokens: int) -> float:
        """Seconds to wait before a call of about `tokens` tokens may start; 0 if it may start now."""
        wait = self.closed_for(now)
        if self._requests is not None:
            wait = max(wait, self._requests.delay(now, 1.0))
        if self._tokens is not None:
            wait = max(wait, self._tokens.delay(now, tokens))
        return wait

    def closed_for(self, now: float) -> float:
        """Seconds until a limit that the endpoint reported as used up is reset; 0 if none is."""
        return max(0.0, self._closed_until - now)

    def reopen(self) -> None:
        """Forget that a limit was reported as used up: somebody wants to see for himself."""
        self._closed_until = 0.0

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
        """Take in what the endpoint reports; names of headers in lower case."""
        requests, tokens = _Report.read(headers, "requests"), _Report.read(headers, "tokens")
        for report in (requests, tokens):
            if report is not None and report.remaining <= 0:
                self._closed_until = max(self._closed_until, now + report.reset)
        if self._learns_requests:
            self._requests = _adopted(self._requests, requests)
        if self._learns_tokens:
            self._tokens = _adopted(self._tokens, tokens)


@dataclass(frozen=True, slots=True)
class _Report:
    """What an endpoint says of one limit (0: it does not say), with the seconds until all of it may be used again."""

    limit: float
    remaining: float
    reset: float

    @classmethod
    def read(cls, headers: Mapping[str, str], what: str) -> Self | None:
        limit = number(headers.get(f"{HEADER_PREFIX}limit-{what}"))
        remaining = number(headers.get(f"{HEADER_PREFIX}remaining-{what}"))
        reset = time_span(headers.get(f"{HEADER_PREFIX}reset-{what}", ""))
        if remaining is None or reset is None:
            return None
        return cls(limit or 0.0, remaining, reset)

    @property
    def per_minute(self) -> float | None:
        """The limit, if it is one by the minute."""
        used = self.limit - self.remaining
        low, high = _A_MINUTE
        return self.limit if used > 0 and low <= self.reset * self.limit / used <= high else None


def _adopted(bucket: _Bucket | None, report: _Report | None) -> _Bucket | None:
    """A bucket for what is reported; the one that there is where nothing is, or nothing new."""
    per_minute = report.per_minute if report is not None else None
    if per_minute is None or (bucket is not None and bucket.per_minute == per_minute):
        return bucket
    return _Bucket(per_minute)
