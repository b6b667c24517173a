"""The event loop's clock, and times as people read them."""

from __future__ import annotations

import time
from datetime import datetime

loop_time = time.monotonic
"""Seconds on asyncio's clock, to which deadlines are set; `anyio.current_time` finds out first which loop asks."""
_MINUTES_FROM_S = 120.0


def time_until(when: float) -> str:
    """How long it is until a time (seconds since 1970), 0 once it is over; in minutes where that is long."""
    seconds = max(0.0, when - time.time())
    return f"{seconds:.0f} s" if seconds < _MINUTES_FROM_S else f"{seconds / 60:.0f} min"


def clock_time(when: float) -> str:
    """A time (seconds since 1970) where we are: the hour alone today, with its date on another day."""
    moment = datetime.fromtimestamp(when)
    return f"{moment:%H:%M}" if moment.date() == datetime.now().date() else f"{moment:%Y-%m-%d %H:%M}"
