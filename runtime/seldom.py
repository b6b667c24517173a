"""What comes again and again is told once in some minutes, with how many others there were."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable

from runtime.clock import loop_time

_QUIET_S = 300.0
_MOST_CAUSES = 1000


class Seldom:
    """What has been told, by cause."""

    def __init__(self) -> None:
        self._told: dict[Hashable, float] = {}  # when (loop time)
        self._others: Counter[Hashable] = Counter()  # since then

    def others(self, cause: Hashable) -> int | None:
        """How many of a cause there were since one was told of; None if that was less than five minutes ago.

        Whoever gets a number tells of this one.
        """
        now = loop_time()
        if now - self._told.get(cause, -math.inf) < _QUIET_S:
            self._others[cause] += 1
            return None
        if len(self._told) >= _MOST_CAUSES:
            self._told.clear()
            self._others.clear()
        self._told[cause] = now
        return self._others.pop(cause, 0)
