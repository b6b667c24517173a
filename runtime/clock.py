"""Times as people read them."""

from __future__ import annotations

from datetime import datetime


def clock_time(when: float) -> str:
    """A time (seconds since 1970) where we are: the hour alone today, with its date on another day."""
    moment = datetime.fromtimestamp(when)
    return f"{moment:%H:%M}" if moment.date() == datetime.now().date() else f"{moment:%Y-%m-%d %H:%M}"
