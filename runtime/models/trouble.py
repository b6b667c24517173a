"""Telling people of an endpoint's trouble: once when it begins, and once when it is over.

Single failures are for the log of events; this is for whoever may have to do something, or wonders why nothing moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from runtime.clock import clock_time, loop_time
from runtime.models.faults import Reaction

if TYPE_CHECKING:
    from runtime.models.faults import Fault
    from runtime.models.settings import EndpointSettings

Tell = Callable[[str], None]
_FAILURES_TO_TELL = 5
_SECONDS_TO_TELL = 10.0


def silent(_text: str) -> None:
    """Tell nobody."""


class _Told(Enum):
    NOTHING = 0
    UNREACHED = 1  # there is no connection
    LEFT_ALONE = 2  # nor is there to be one for a while
    PAUSED = 3  # it wants to be left alone


class Trouble:
    """What people have been told of an endpoint's trouble."""

    def __init__(self, settings: EndpointSettings, tell: Tell) -> None:
        at = settings.base_url or settings.region
        self._who = f"the {settings.name} endpoint" + (f" at {at}" if at else "")
        self._tell = tell
        self._told = _Told.NOTHING
        self.unreached: str | None = None
        """Why there is no connection, and since when, as long as there is none."""
        self._failures = 0
        self._failing = self._since = ""
        self._began = 0.0
        self._lost = 0.0  # when (loop time) there was last no connection

    @property
    def reason(self) -> str | None:
        """What the endpoint's trouble is, and since when: it is not reached, or has failed several times in a row."""
        return self.unreached or (self._failing if self.lasts else None)

    @property
    def lasts(self) -> bool:
        """Whether it has failed several times in a row, and for some time."""
        return self._failures >= _FAILURES_TO_TELL and loop_time() - self._began >= _SECONDS_TO_TELL

    def met(self, fault: Fault, *, begun: float) -> None:
        """Note an attempt, begun at a loop time, that brought no reply: whether the endpoint was reached at all."""
        if fault.reaction is not Reaction.NEVER:  # which is about the request
            status = f" (status {fault.status})" if fault.status is not None else ""
            if not self._failures:
                self._since, self._began = clock_time(time.time()), loop_time()
            self._failures += 1
            self._failing = f"no reply since {self._since}: {fault.reason}{status}"
        if not fault.unreached:
            if fault.status is not None and begun >= self._lost:
                self._reached()
            return
        self._lost = loop_time()
        if self._told not in (_Told.UNREACHED, _Told.LEFT_ALONE):
            self._told = _Told.UNREACHED
            reason = fault.reason.removeprefix("cannot connect: ")
            self.unreached = f"cannot be reached since {clock_time(time.time())}: {reason}"
            self._tell(f"{self._who} cannot be reached: {reason}. Next: {fault.advice}; it is tried again meanwhile")

    def left_alone(self, seconds: float) -> None:
        """Tell once that it is not asked for so long, because it cannot be reached."""
        if self._told is _Told.UNREACHED:
            self._told = _Told.LEFT_ALONE
            self._tell(
                f"{self._who} is asked again in {seconds:.0f} s, then less and less often, as `cso status` shows. "
                "Its work waits and counts no failure; `cso retry --all` has it asked at once"
            )

    def paused(self, reason: str) -> None:
        """Tell of a new pause; `reason` goes on from the endpoint's name."""
        self._told = _Told.PAUSED
        self._tell(
            f"{self._who} {reason}. Its work waits and counts no failure; `cso retry --all` has it asked at once"
        )

    def over(self, *, begun: float) -> None:
        """It has replied to a request that was begun at a loop time.

        One that was on its way when the connection was lost does not show that there is one again.
        """
        if begun < self._lost:
            return
        self._failures = 0
        self._reached()
        if self._told is _Told.PAUSED:
            self._told = _Told.NOTHING
            self._tell(f"{self._who} answers again")

    def _reached(self) -> None:
        self.unreached = None
        if self._told in (_Told.UNREACHED, _Told.LEFT_ALONE):
            self._told = _Told.NOTHING
            self._tell(f"{self._who} can be reached again")
