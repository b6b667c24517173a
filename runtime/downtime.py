"""Time in which nobody could try anything, so that it counts against nothing that is tried again.

A machine sleeps, its clock is set ahead, or its disk is in trouble for hours; what failed shortly before has not been
failing for so long.
"""

from __future__ import annotations

from runtime.clock import loop_time
from store.errors import StorageTroubleError
from store.transaction import now_us

# What a clock that is kept in time by others is moved by at once.
_TOLERANCE_S = 1.0


class Downtime:
    """Spans of such time since this was made; on one event loop."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, float]] = []  # when each ended (µs since 1970) and its seconds
        self._ahead = _ahead()
        self._trouble_began: float | None = None

    def note_trouble(self, trouble: StorageTroubleError | None) -> None:
        """The disk is in trouble, or (None) not any more; for the database to tell."""
        if trouble is not None:
            self._trouble_began = loop_time() if self._trouble_began is None else self._trouble_began
        elif self._trouble_began is not None:
            self._spans.append((now_us(), loop_time() - self._trouble_began))
            self._trouble_began = None

    def now(self) -> int:
        """The time (µs since 1970), which only so taken can be asked of later, as that of a first failure.

        Where the clock was set back, it counts too little by itself.
        """
        jump = _ahead() - self._ahead
        if abs(jump) > _TOLERANCE_S:
            self._ahead += jump
            self._spans.append((now_us(), max(jump, 0.0)))
        return now_us()

    def since(self, moment: int) -> float:
        """Seconds of it that the clock counted from a moment to the last `now`, both in µs since 1970."""
        return sum(seconds for ended, seconds in self._spans if ended > moment)


def _ahead() -> float:
    """Seconds by which the clock is ahead of the loop's, which neither counts sleep nor can be set."""
    return now_us() / 1e6 - loop_time()
