"""Short calls of the file system, off the loop, and many in one hop to a thread.

To remove a folder takes microseconds, but milliseconds while the file system commits its journal, as it does all the
time for the database. A hop for each would cost more processor time than the calls themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

# Those who wait for them go on in one round of the loop.
_AT_ONCE = 16

_Waiting = tuple[Callable[[], None], asyncio.Future[bool]]


class ShortCalls:
    """Makes calls one after the other, in the order in which they come."""

    def __init__(self) -> None:
        self._line: deque[_Waiting] = deque()
        self._under_way = False

    async def succeeds(self, call: Callable[[], None]) -> bool:
        """Make a call; False if it raises an OSError. A caller that is cancelled does not take it back."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        self._line.append((call, done))
        if not self._under_way:
            self._go_on(loop)
        return await done

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = [self._line.popleft() for _ in range(min(_AT_ONCE, len(self._line)))]
        self._under_way = bool(batch)
        if batch:
            made = loop.run_in_executor(None, _make, [call for call, _ in batch])
            made.add_done_callback(partial(self._tell, loop, batch))

    def _tell(
        self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Waiting], made: asyncio.Future[list[bool]]
    ) -> None:
        self._go_on(loop)
        for (_, done), succeeded in zip(batch, made.result(), strict=True):
            if not done.done():
                done.set_result(succeeded)


def _make(calls: Sequence[Callable[[], None]]) -> list[bool]:
    return [succeeds(call) for call in calls]


def succeeds(call: Callable[[], None]) -> bool:
    """Whether a call raises no OSError; made here and now."""
    try:
        call()
    except OSError:
        return False
    return True
