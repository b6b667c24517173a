"""Signals as bytes on a descriptor, so that one poll waits for them and for everything else."""

from __future__ import annotations

import contextlib
import os
import signal


class Wakeups:
    """The signals of this process; only those come that have a handler in Python."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._read

    def take(self) -> set[int]:
        """The signals that came since the last time."""
        with contextlib.suppress(BlockingIOError):
            return set(os.read(self._read, 4096))
        return set()
