"""Telling people of an endpoint's trouble while it lasts: once when it begins, and once when it is over.

Single failures are for the log of events; this is for whoever may have to do something, or wonders why nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.models.settings import EndpointSettings

Tell = Callable[[str], None]


def silent(_text: str) -> None:
    """Tell nobody."""


class Trouble:
    """What people have been told of an endpoint's trouble."""

    def __init__(self, settings: EndpointSettings, tell: Tell) -> None:
        at = settings.base_url or settings.region
        self._who = f"the {settings.name} endpoint" + (f" at {at}" if at else "")
        self._tell = tell
        self._is_told = False

    def begins(self, text: str) -> None:
        """Tell of trouble that is new; `text` goes on from the endpoint's name."""
        self._is_told = True
        self._tell(f"{self._who} {text}")

    def over(self) -> None:
        """Tell that it answers, if trouble was told."""
        if self._is_told:
            self._is_told = False
            self._tell(f"{self._who} answers again")
