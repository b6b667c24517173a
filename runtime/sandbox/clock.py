"""The time that counts against an execution's timeout: that in which it does not wait long for a tool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class CodeClock:
    """A stop watch that calls a function when it reaches its limit (seconds); it begins stopped."""

    def __init__(self, limit: float, expire: Callable[[], None]) -> None:
        self._limit = limit
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._used = 0.0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False

    @property
    def seconds(self) -> float:
        """The time that counts so far."""
        return self._used + (self._loop.time() - self._since if self._timer else 0.0)

    def start(self) -> None:
        """Go on counting."""
        if self._timer is None and not self.expired:
            self._since = self._loop.time()
            self._timer = self._loop.call_later(max(0.0, self._limit - self._used), self._ring)

    def stop(self) -> None:
        """Stop counting; to do so again changes nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._used = self.seconds
            self._timer = None

    def charge(self, seconds: float) -> None:
        """Count time that passed while this was stopped."""
        assert self._timer is None
        self._used += seconds

    def _ring(self) -> None:
        self.stop()
        self.expired = True
        self._expire()
