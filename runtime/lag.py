"""How late the event loop is: everything that a daemon does waits for it, so it is measured all the time.

A task asks to be woken at short intervals; by how much it oversleeps is what any other task would have waited.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import anyio

from runtime.clock import loop_time

_EVERY_S = 0.05
_KEPT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """Delays of the event loop over the last minute, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class LagMeter:
    """Measures while `run` does."""

    def __init__(self) -> None:
        self._delays: deque[float] = deque(maxlen=round(_KEPT_S / _EVERY_S))

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = loop_time() + _EVERY_S
            await anyio.sleep_until(due)
            self._delays.append(max(0.0, loop_time() - due))

    def read(self) -> Lag | None:
        """The figures; None before the first."""
        if not self._delays:
            return None
        delays = sorted(self._delays)
        return Lag(p50_ms=_at(delays, 0.5), p99_ms=_at(delays, 0.99), max_ms=_at(delays, 1.0))


def _at(delays: list[float], share: float) -> float:
    """The smallest delay that so great a share of them does not exceed, in milliseconds."""
    return round(1000 * delays[max(0, math.ceil(share * len(delays)) - 1)], 3)
