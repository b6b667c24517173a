"""What follows a refused key, or a pause that no call can wait for: nobody asks, until a single call tries.

Keys are mended at the provider, accounts are topped up, quotas are those of a day, and a gateway may have refused one
prompt alone. A daemon that runs for weeks must not have to be started again for that, nor knock with every call that
it has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import anyio

from runtime.clock import loop_time
from runtime.models.faults import Fault

_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 900.0


class Stop:
    """Whether an endpoint is asked; `fault` is what it stopped us with, None while it is asked as usual.

    The pause before a call may try a refused key begins with a minute and doubles with each refusal.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self._refusals = 0
        self._since = 0.0
        self._until = 0.0
        self._trial: anyio.Event | None = None

    @property
    def pause(self) -> float:
        """Seconds until a call may try; 0 if one may at once."""
        return 0.0 if self.fault is None else max(0.0, self._until - loop_time())

    @property
    def lasting(self) -> float:
        """Seconds for which it has not been asked as usual; 0 while it is."""
        return 0.0 if self.fault is None else loop_time() - self._since

    @property
    def is_closed(self) -> bool:
        """Whether a call that came now would be refused, or would have to wait for one that tries."""
        return self.fault is not None and (self._trial is not None or self.pause > 0)

    def refused(self, fault: Fault, *, by_trial: bool) -> None:
        """The endpoint refused the key; those who asked while it was still taken tell nothing new."""
        if self.fault is None or by_trial:
            self._begin()
            self._until = loop_time() + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._refusals, 32))
            self._refusals += 1
        self.fault = fault

    def left_alone(self, fault: Fault, seconds: float) -> bool:
        """The endpoint wants to be left alone for so long; the longest of several such pauses holds.

        Whether that is news, because no such pause was under way.
        """
        now = loop_time()
        is_news = self.fault is None or now >= self._until
        self._begin()
        self._until = max(self._until, now + seconds)
        self.fault = fault
        return is_news

    def _begin(self) -> None:
        if self.fault is None:
            self._since, self._until = loop_time(), 0.0

    def lift(self) -> None:
        """Ask as usual again."""
        self.fault = None
        self._refusals = 0

    async def settled(self, deadline: float) -> bool:
        """Wait, at most until `deadline` (loop time), while a call tries; whether the next one may be made now."""
        while self._trial is not None and loop_time() < deadline:
            with anyio.CancelScope(deadline=deadline):
                await self._trial.wait()
        return not self.is_closed

    def trial(self) -> contextlib.AbstractContextManager[bool]:
        """Make a call in the block; whether it is the one that tries, for which others wait."""
        return contextlib.nullcontext(False) if self.fault is None else self._try()

    @contextlib.contextmanager
    def _try(self) -> Iterator[bool]:
        self._trial = ended = anyio.Event()
        try:
            yield True
        finally:
            self._trial = None
            ended.set()
