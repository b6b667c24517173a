"""One writer a data directory: an advisory lock on `DIR/lock`, freed by the kernel when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from store.errors import DataLockedError


class DataLock:
    """The right to write to a data directory. The file holds the owner's process id, for messages only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    @property
    def file(self) -> Path:
        """The file that is locked; it stays behind, unlocked, when the owner has gone."""
        return self._directory / "lock"

    def acquire(self) -> None:
        """Take the lock, making the directory if it is missing.

        Raises:
            DataLockedError: another process holds it.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise DataLockedError(self._directory, self.owner()) from error
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # the number is for messages; what a full disk means others find out
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # on a disk that has become read-only the number stays
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def is_held(self) -> bool:
        """Whether a process holds the lock at this moment, ours included; nothing is written to find out."""
        try:
            descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # Shared, so that two who look do not see each other; whoever comes to write meanwhile tries again.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def owner(self) -> int | None:
        """The process id that the last owner left, if it is readable."""
        with contextlib.suppress(OSError, ValueError):
            return int(self.file.read_text(encoding="ascii"))
        return None
