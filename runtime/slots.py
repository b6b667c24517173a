"""A limit on how much runs at once, under which later stages of the method go first.

Among those who wait, the higher rank is served before the lower, and within a rank the one who came first. That
keeps the number of begun but unverified tasks small and brings the first pair early.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator

import anyio


class Slots:
    """A number of places to run in."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, anyio.Event]] = []

    @property
    def in_use(self) -> int:
        """How many places are taken."""
        return self.total - self._free

    def resize(self, total: int) -> None:
        """Have another number of places from now on; those who run beyond it finish first."""
        self._free += total - self.total
        self.total = total
        while self._waiting and self._free > 0:
            self._free -= 1
            heapq.heappop(self._waiting)[2].set()

    @contextlib.asynccontextmanager
    async def hold(self, rank: int) -> AsyncIterator[None]:
        """Run the block in a place, waiting for one as long as it takes."""
        await self._acquire(rank)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, rank: int) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn = anyio.Event()
        entry = (-rank, next(self._order), turn)
        heapq.heappush(self._waiting, entry)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # the place was already given to us: pass it on
                self._release()
            else:
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
            raise

    def _release(self) -> None:
        if self._waiting and self._free >= 0:  # below 0 there are too few places for those who run
            heapq.heappop(self._waiting)[2].set()
        else:
            self._free += 1
