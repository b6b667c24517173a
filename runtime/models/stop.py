"""What follows a refused key: nobody asks, but for a single call now and then that tries whether it is taken.

Keys are mended at the provider, accounts are topped up, and a gateway may have refused one prompt alone. A daemon
that runs for weeks must not have to be started again for that, nor knock with every call that it has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import anyio

from runtime.models.faults import Fault

_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 900.0


class Stop:
    """Whether an endpoint is asked; `fault` is what it refused the key with, None while it is asked as usual.

    The pause before a call may try begins with a minute and doubles with each refusal.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self._refusals = 0
        self._until = 0.0
        self._trial: anyio.Event | None = None

    @property
    def pause(self) -> float:
        """Seconds until a call may try; 0 if one may at once."""
        return 0.0 if self.fault is None else max(0.0, self._until - anyio.current_time())

    @property
    def is_closed(self) -> bool:
        """Whether a call that came now would be refused, or would have to wait for one that tries."""
        return self.fault is not None and (self._trial is not None or self.pause > 0)

    def refused(self, fault: Fault, *, by_trial: bool) -> None:
        """The endpoint refused the key; those who asked while it was still taken tell nothing new."""
        if self.fault is None or by_trial:
            self._until = anyio.current_time() + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._refusals, 32))
            self._refusals += 1
        self.fault = fault

    def lift(self) -> None:
        """Ask as usual again."""
        self.fault = None
        self._refusals = 0

    async def settled(self, deadline: float) -> bool:
        """Wait, at most until `deadline` (loop time), while a call tries; whether the next one may be made now."""
        while self._trial is not None and anyio.current_time() < deadline:
            with anyio.CancelScope(deadline=deadline):
                await self._trial.wait()
        return not self.is_closed

    @contextlib.contextmanager
    def trial(self) -> Iterator[bool]:
        """Make a call in the block; whether it is the one that tries, for which others wait."""
        if self.fault is None:
            yield False
            return
        self._trial = ended = anyio.Event()
        try:
            yield True
        finally:
            self._trial = None
            ended.set()
