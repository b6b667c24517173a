"""The errors of the store, one class for each way in which a caller reacts.

CsoError                      whatever the program raises on purpose, in any of its rooms
└── StoreError
    ├── TaskFileError         a task file cannot be taken: say where and why
    ├── NewerDatabaseError    a later release wrote the database: stop
    ├── DataLockedError       another daemon works on the data directory: stop
    ├── NoDatabaseError       nothing has been stored there yet: say what to run first
    └── StoreClosedError      a write came after the end: the caller outlived its store
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class CsoError(Exception):
    """Base of every error that the program raises on purpose; its text is meant for people."""


class StoreError(CsoError):
    """Base of the store's errors."""


class TaskFileError(StoreError):
    """Raised when a task file cannot be taken.

    `reasons` holds every fault, with its line where it has one; the message shows the first of them.
    """

    _SHOWN = 20

    def __init__(self, path: Path, reasons: Sequence[str]) -> None:
        self.path = path
        self.reasons = tuple(reasons)
        if len(self.reasons) == 1:
            super().__init__(f"{path} cannot be taken: {self.reasons[0]}")
            return
        more = len(self.reasons) - self._SHOWN
        lines = [f"{path} cannot be taken, it has {len(self.reasons)} faults:", *self.reasons[: self._SHOWN]]
        super().__init__("\n  ".join(lines + [f"… and {more} more"] * (more > 0)))


class NewerDatabaseError(StoreError):
    """Raised when the database was written by a later release than this one."""

    def __init__(self, *, found: int, known: int) -> None:
        self.found = found
        self.known = known
        super().__init__(
            f"the database has version {found}, this program knows versions up to {known}: "
            "install the release that wrote it, or choose another data directory"
        )


class DataLockedError(StoreError):
    """Raised when another process already works on the data directory."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        self.directory = directory
        self.pid = pid
        holder = f"process {pid}" if pid else "another process"
        super().__init__(f"{directory} is in use by {holder}: wait for it, stop it, or choose another data directory")


class NoDatabaseError(StoreError):
    """Raised when a reader is pointed at a directory in which no run has been started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(f"{directory} holds no run: start one with `cso run`, or name its folder with --data")


class StoreClosedError(StoreError):
    """Raised when something is written after the store was closed."""
