"""How many calls may be in flight: a fixed number, or one found by trying.

`AdaptiveWindow` grows by a step each round trip and shrinks when the server sheds load. What keeps refusals
rare:

- it grows only on proof: a call that was sent with the window full has been answered;
- steps start at one after every refusal and double up to a sixth of the window, so overshooting is bounded;
- one decrease per round trip: refusals of calls sent before the last decrease only tell how many were too many, and
  so lower the limit further where that is more than it was cut by;
- a refused probe goes back to the level proven before it; only a refusal at or below a proven level, a sign that
  capacity fell, cuts by a quarter;
- just below the level last refused it holds still, first for four round trips, and four times longer
  after each probe refused there, up to `_LONGEST_HOLD` calls. A probe that is answered lifts that ceiling.

A server that queues instead of refusing is held by `LatencyWatch`.
"""

from __future__ import annotations

from typing import Protocol

from runtime.models.latency import LatencyWatch

_INITIAL = 8
_CUT = 0.75
_DEEPEST_CUT = 4
_STEP_SHARE = 6
_LARGEST_STEP = 32
_ROUND_CALLS = 16
_FIRST_HOLD = 4
_LONGEST_HOLD = 500


class Window(Protocol):
    """A limit on calls in flight that is told how calls went."""

    limit: int

    @property
    def is_found(self) -> bool:
        """Whether the present limit is what the server was found to take, not what the user allows."""

    def sent(self, in_flight: int) -> int:
        """Note a call sent as the `in_flight`th one; returns its serial number."""

    def succeeded(self, serial: int, latency: float, in_flight: int) -> None:
        """Note that a call was answered `latency` seconds after it was sent, as one of `in_flight`."""

    def refused(self, serial: int, in_flight: int) -> None:
        """Note that the server shed a call while `in_flight`, with this one, were on their way."""


class FixedWindow:
    """The limit that the user has set."""

    is_found = False

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def sent(self, in_flight: int) -> int:  # noqa: ARG002 - one shape with the adaptive window
        return 0

    def succeeded(self, serial: int, latency: float, in_flight: int) -> None:
        pass

    def refused(self, serial: int, in_flight: int) -> None:
        pass


class AdaptiveWindow:
    """A limit between 1 and `ceiling` that follows the server's capacity."""

    def __init__(self, *, ceiling: int) -> None:
        self.limit = min(_INITIAL, ceiling)
        self._ceiling = ceiling
        self._latency = LatencyWatch()
        self._serial = 0
        self._step = 1
        self._changed_at = 0
        self._cut_at = 0
        self._sent = self._shed = 0
        self._full_at: int | None = None
        self._is_proven = False
        self._proven = 0
        self._refused_at: int | None = None
        self._calm = 0
        self._answered = 0
        self._hold = _FIRST_HOLD
        self._probing = False

    @property
    def is_found(self) -> bool:
        return self.limit < self._ceiling

    def sent(self, in_flight: int) -> int:
        self._serial += 1
        if self._full_at is None and in_flight >= self.limit:
            self._full_at = self._serial
        return self._serial

    def succeeded(self, serial: int, latency: float, in_flight: int) -> None:
        self._calm += 1
        slower = self._latency.add(latency, in_flight)
        if slower is not None and slower < self.limit:
            self._refused_at, self._proven, self._hold = slower + 1, slower, _FIRST_HOLD
            self._step = 1
            self._change(slower)
        elif serial > self._changed_at:
            self._answered += 1
            if self._full_at is not None and serial >= self._full_at:
                self._is_proven = True
            if self._is_proven and self._answered >= min(self.limit, _ROUND_CALLS):
                self._end_round()

    def refused(self, serial: int, in_flight: int) -> None:
        if serial <= self._cut_at:
            self._drain(in_flight)
            return
        self._cut_at = self._serial
        self._sent, self._shed = in_flight, 1
        self._refused_at = in_flight
        self._hold = min(self._hold * 4, _LONGEST_HOLD) if self._probing else _FIRST_HOLD
        cut = int((in_flight - 1) * _CUT)
        if self._proven < in_flight:
            limit = max(self._proven, cut)
        else:
            limit = self._proven = cut
        self._step = 1
        self._change(limit)
        self._refused_at = max(self._refused_at, self.limit + 1)

    def _drain(self, in_flight: int) -> None:
        """One more of a burst was refused: as it drains, it shows more exactly where the edge is."""
        self._shed += 1
        # Not all the way down: a server that refuses everything for a moment has not lost its capacity.
        taken = max(self._sent - self._shed, self._sent // _DEEPEST_CUT)
        if taken < self.limit:
            self._proven = min(self._proven, taken)
            self._change(taken)
        if self._refused_at is not None:
            self._refused_at = max(self.limit + 1, min(self._refused_at, in_flight))

    def _end_round(self) -> None:
        self._answered = 0
        self._proven = self.limit
        if self._refused_at is not None and self.limit >= self._refused_at:
            self._refused_at = None
            self._hold = _FIRST_HOLD
        self._grow()

    def _grow(self) -> None:
        target = self.limit + self._step
        probing = False
        if self._refused_at is not None and target >= self._refused_at:
            target = self._refused_at - 1
            if target <= self.limit:
                if self._calm < self._patience():
                    return
                target, probing = self.limit + 1, True
                self._step = 1
        self._step = min(2 * self._step, max(1, target // _STEP_SHARE), _LARGEST_STEP)
        if min(target, self._ceiling) != self.limit:
            self._change(target)
            self._probing = probing

    def _patience(self) -> int:
        """Calls to be answered at the edge before the next probe."""
        return min(self._hold * self.limit, _LONGEST_HOLD)

    def _change(self, limit: int) -> None:
        self.limit = max(1, min(limit, self._ceiling))
        self._changed_at = self._serial
        self._full_at = None
        self._is_proven = False
        self._probing = False
        self._calm = 0
        self._answered = 0
