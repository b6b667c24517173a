"""The event loop's clock, and times as people read them."""

from __future__ import annotations

import time
from datetime import datetime

loop_time = time.monotonic
"""Seconds on asyncio's clock, to which deadlines are set; `anyio.current_time` finds out first which loop asks."""


def clock_time(when: float) -> str:
    """A time (seconds since 1970) where we are: the hour alone today, with its date on another day."""
    moment = datetime.fromtimestamp(when)
    return f"{moment:%H:%M}" if moment.date() == datetime.now().date() else f"{moment:%Y-%m-%d %H:%M}"
