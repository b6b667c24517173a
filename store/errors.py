"""The errors of the store, one class for each way in which a caller reacts.

CsoError                      whatever the program raises on purpose, in any of its rooms
└── StoreError
    ├── StorageError          the data directory cannot be used: say what to do about it
    │   ├── StorageTroubleError   for now; it may clear by itself or when a person helps
    │   ├── DamagedDatabaseError  the database file is not what was written: stop
    │   ├── DatabaseGoneError     it was removed or replaced while in use: stop
    │   └── NewerDatabaseError    a later release wrote the database: stop
    ├── TaskFileError         a task file cannot be taken: say where and why
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


class StorageError(StoreError):
    """Base of what is wrong with the data directory itself, so that no work on it can go on."""


class StorageTroubleError(StorageError):
    """Raised when the data directory cannot be used for now; nothing was half done.

    `trouble` is a machine-readable word, as `full` or `read-only`; `what` says what is wrong and where, `next_step`
    what a person can do. `directory` is the one that is in trouble where it may be another than the data directory.
    """

    def __init__(self, trouble: str, what: str, next_step: str, *, directory: Path | None = None) -> None:
        self.directory = directory
        self.trouble = trouble
        self.what = what
        self.next_step = next_step
        super().__init__(f"{what}: {next_step}, then run the command again (nothing that was committed is lost)")


class DamagedDatabaseError(StorageError):
    """Raised when the database file is not what was written to it."""

    def __init__(self, file: Path, reason: str) -> None:
        self.file = file
        self.reason = reason
        super().__init__(
            f"{file} is damaged ({reason}): see `cso doctor --data {file.parent}`, put a backup in its place, or "
            f"save what can be read with `sqlite3 {file.name} .recover`"
        )


class DatabaseGoneError(StorageError):
    """Raised when the database was removed or replaced while it was in use; `saved` tells whether all was kept."""

    def __init__(self, file: Path, *, saved: bool) -> None:
        self.file = file
        self.saved = saved
        rest = "what was committed has been moved into the database" if saved else "put it back from a backup"
        super().__init__(
            f"{file} was removed or replaced while it was in use: {rest}. Leave the files of a data directory alone "
            "while it is worked on, then start again"
        )


class NewerDatabaseError(StorageError):
    """Raised when the database was written by a later release than this one; `file` is the database, where known."""

    def __init__(self, *, found: int, known: int, file: Path | None = None) -> None:
        self.file = file
        self.found = found
        self.known = known
        super().__init__(
            f"{file or 'the database'} has version {found}, this program knows versions up to {known}: "
            "install the release that wrote it, or choose another data directory"
        )


class DataLockedError(StoreError):
    """Raised when another process already works on the data directory."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        self.directory = directory
        self.pid = pid
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{directory} is in use by {holder}: wait for it, stop it, hand it tasks with `cso submit`, or choose "
            "another data directory"
        )


class NoDatabaseError(StoreError):
    """Raised when a reader is pointed at a directory in which no run has been started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(f"{directory} holds no run: start one with `cso run`, or name its folder with --data")


class StoreClosedError(StoreError):
    """Raised when something is written after the store was closed."""
