"""When to ask again: full-jitter exponential back-off, and what `Retry-After` headers ask for."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_PAUSE = 86_400.0
"""Seconds: the most that `Retry-After` can make an endpoint wait, which is for the quota of a day."""

LONGEST_RESET = 3600.0
"""Seconds: the most that is believed of a limit's reset, since one that refills steadily has room long before."""

_RANDOM = SystemRandom()
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def backoff_delay(failures: int, *, base: float, most: float) -> float:
    """Seconds before the next attempt after `failures` (from 1) ones: uniform between 0 and a doubling ceiling.

    Full jitter, because calls that failed together would otherwise come back together.
    """
    return _RANDOM.uniform(0.0, min(most, base * 2.0 ** min(failures - 1, 32)))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to be left alone, from 0 to `LONGEST_PAUSE`; None if it does not ask.

    Reads `retry-after-ms` and `retry-after`, the latter as seconds or as an HTTP date.
    """
    milliseconds = number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamp(milliseconds / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    seconds = number(value)
    return _clamp(seconds) if seconds is not None else seconds_until(value, headers)


def seconds_until(date: str, headers: Mapping[str, str]) -> float | None:
    """Seconds until a date, an HTTP one or one of RFC 3339, from 0 to `LONGEST_PAUSE`; None if it is none.

    It is taken relative to the answer's own `date`, so that a wrong clock on either side does not matter.
    """
    until = _date(date)
    if until is None:
        return None
    now = _date(headers.get("date")) or datetime.now(UTC)
    return _clamp((until - now).total_seconds())


def time_span(text: str) -> float | None:
    """Seconds in the reset headers' forms: `6m0s`, `20ms`, `1.5s`, plain seconds; None for anything else.

    From 0 to `LONGEST_RESET`.
    """
    seconds = number(text)
    if seconds is not None:
        return _clamp(seconds, LONGEST_RESET)
    parts = _SPAN.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return _clamp(sum(float(number) * _SECONDS[unit] for number, unit in parts), LONGEST_RESET)


def _clamp(seconds: float, most: float = LONGEST_PAUSE) -> float:
    return min(max(seconds, 0.0), most)


def number(text: str | None) -> float | None:
    """A number in a header; None where there is none."""
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
        except (ValueError, OverflowError):
            continue
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return None
