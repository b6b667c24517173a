"""How many processes a user has, where the kernel counts those of code and all others of that user together."""

from __future__ import annotations

import contextlib
import math
import os
import time

import anyio

_EVERY_S = 30.0
# What executions under way beside one may have.
_NEIGHBOURS = 1024


class Census:
    """What the limit on processes has to leave for processes that are not the code's; counted now and then.

    `latest` is what was found last, None before that.
    """

    def __init__(self) -> None:
        self.latest: int | None = None
        self._counted = -math.inf
        self._counting = anyio.Lock(fast_acquire=True)

    async def others(self) -> int:
        """The number of processes and threads that the code of one execution may find beside its own."""
        async with self._counting:
            if self.latest is None or time.monotonic() - self._counted > _EVERY_S:
                self.latest = _NEIGHBOURS + await anyio.to_thread.run_sync(count_tasks, os.getuid())
                self._counted = time.monotonic()
            return self.latest


def count_tasks(uid: int) -> int:
    """How many processes and threads the kernel counts against a user's RLIMIT_NPROC."""
    total = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                with open(f"{entry.path}/status", errors="replace") as status:  # noqa: PTH123 - many, in a hurry
                    fields = dict(line.split(":", 1) for line in status if ":" in line)
                if int(fields["Uid"].split()[0]) == uid:
                    total += int(fields["Threads"])
    return total
