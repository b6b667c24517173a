"""The spool folder: task files that are moved into it are taken up, each exactly once.

    SPOOL/*.jsonl      waiting; to be moved in whole (`mv` from the same disk), or at least left alone once complete
    SPOOL/taken/       being submitted; what a crash leaves there is submitted again, which is harmless
    SPOOL/done/        submitted
    SPOOL/rejected/    refused, each with NAME.report.json beside it that says why

A file with a bad line, or that clashes with a task that the run has, is refused whole. It may be mended and moved in
again, like every file, because tasks that are known are left alone.

A file is taken once its size and time have not changed between two looks, it is not empty, and no process has it open
for writing, as far as the file system tells that; so one that is still being written is left alone. Names that begin
with a dot or end in anything but .jsonl are not looked at, nor are links. Files that tasks refer to lie in SPOOL,
relative to it, come before the task file, and stay. So `Spool.seen` has what is not taken and may have been meant to
be: links, folders and empty files, and names with json in them. No file is ever overwritten: a name that is taken
gets a number. One file's trouble does not hold up the others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import os
import signal
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio
import orjson
from anyio.to_thread import run_sync

from runtime.control import LocalControl, Submitted
from runtime.errors import ConfigError
from runtime.logs import get_logger
from store.errors import StoreError, TaskFileError
from store.formats.task_files import TaskRecord, read_tasks
from store.tasks import ChangedTaskError

SUFFIX = ".jsonl"
REPORT_SUFFIX = ".report.json"
LOOK_S = 1.0
_NAME_BYTES = 200  # of 255 that a file system allows, so that a number and the report's suffix fit behind
_NAMED = 10  # of what is not taken
_FOLDER = "it is a folder"
# Reasons for which a file cannot be read that say nothing about it: it stays, and is tried again.
_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE}
_log = get_logger("spool")

Place = Literal["taken", "done", "rejected"]
_PLACES: tuple[Place, ...] = ("taken", "done", "rejected")
# What tells a version of a file from another: device, inode, size, time of change.
Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something in the folder that is not taken, and why, as a sentence about it."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last look at the folder found.

    `trouble` says why it, or a file that was to be taken, could not be used. `ignored` counts what lies there and is
    not taken; `examples` are some of it, those with the name of a task file before others.
    """

    trouble: str | None = None
    ignored: int = 0
    examples: tuple[Ignored, ...] = ()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The files that wait in the folder, by name, each with its version.

    `unfit` has the name of a task file and is none, with the reason; `others` are names that may have been meant as
    a task file's and are not.
    """

    versions: Mapping[str, Version]
    unfit: Mapping[str, str] = field(default_factory=dict)
    others: Sequence[str] = ()

    def settled(self, earlier: _Waiting) -> list[str]:
        """The names that have not changed since, in the order of names."""
        return sorted(name for name, version in self.versions.items() if earlier.versions.get(name) == version)


class Spool:
    """Takes up the task files of a folder.

    Args:
        folder: made if it is missing.
        control: takes the tasks, into the run that its settings name.

    Attributes:
        seen: what the last look found.
    """

    def __init__(self, folder: Path, control: LocalControl) -> None:
        self.folder = folder
        self.seen = Seen()
        self._control = control
        self._complaints: set[str] = set()

    async def run(self) -> None:
        """Take up files until cancelled; what goes wrong with one or with the folder is logged, and tried again."""
        before = _Waiting({})
        while True:
            troubles: dict[str, OSError | StoreError] = {}
            waiting, written = _Waiting({}), dict[str, str]()
            try:
                await run_sync(self._make_folders)
                waiting = await run_sync(self._waiting)
                for name in waiting.settled(before):
                    with _noting(troubles, self.folder / name):
                        if not await run_sync(self._take, self.folder / name):
                            written[name] = "a process has it open for writing"
                # What an earlier process, or a failed attempt, left there is submitted with what has just been taken.
                for path in await run_sync(self._taken):
                    with _noting(troubles, path):
                        await self._submit(path)
                before = waiting
            except OSError as error:
                troubles[str(self.folder)] = error
            self._complain(troubles)
            self.seen = await run_sync(self._summed_up, waiting, written, list(troubles.values()))
            await anyio.sleep(LOOK_S)

    def _summed_up(
        self, waiting: _Waiting, written: Mapping[str, str], troubles: Sequence[OSError | StoreError]
    ) -> Seen:
        unfit = {**waiting.unfit, **written}
        examples = [Ignored(_as_text(name), unfit[name]) for name in sorted(unfit)[:_NAMED]]
        for name in heapq.nsmallest(_NAMED - len(examples), waiting.others):
            reason = f"its name does not end in {SUFFIX}"
            with contextlib.suppress(OSError):
                reason = _FOLDER if (self.folder / name).is_dir() else reason
            examples.append(Ignored(_as_text(name), reason))
        return Seen(
            trouble=_said(troubles[0]) if troubles else None,
            ignored=len(unfit) + len(waiting.others),
            examples=tuple(examples),
        )

    def _complain(self, troubles: Mapping[str, OSError | StoreError]) -> None:
        """Say what is wrong once, not every second, for as long as it is the same."""
        for place, error in troubles.items():
            if str(error) not in self._complaints:
                _log.error("the spool folder cannot be used: tried again", place=place, error=str(error))
        self._complaints = {str(error) for error in troubles.values()}

    async def _submit(self, path: Path) -> None:
        """Submit a file in `taken` and move it to where it belongs."""
        try:
            records = await run_sync(self._read, path)
            submitted = await self._control.submit(records)
        except (TaskFileError, ChangedTaskError, ConfigError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_THE_MACHINE:
                raise error.__cause__ from None
            await self._reject(path, error.reasons if isinstance(error, TaskFileError) else [str(error)])
        except (OSError, StoreError):
            raise  # the folder's or the disk's trouble, not the file's: tried again
        except Exception as error:  # noqa: BLE001 - the border to files: one that trips us must not stop the daemon
            _log.exception("task file not understood", file=path.name)
            await self._reject(path, [f"it met a defect of the program: {type(error).__name__}: {error}"])
        else:
            await self._accept(path, submitted)

    def _read(self, path: Path) -> Sequence[TaskRecord]:
        # Strict, because nobody watches: a file with a bad line comes back whole, to be mended and moved in again.
        records = read_tasks(path, strict=True, folder=self.folder).tasks
        if not records:
            raise TaskFileError(path, ["there is no task in it"])
        return records

    async def _accept(self, path: Path, submitted: Submitted) -> None:
        moved = await run_sync(self._move, path, "done")
        halted = {"set_aside": len(submitted.set_aside), "given_up": len(submitted.given_up)}
        told = {state: number for state, number in halted.items() if number}
        _log.info("task file taken", file=moved.name, new=submitted.new, known=submitted.known, **told)

    async def _reject(self, path: Path, reasons: Sequence[str]) -> None:
        moved = await run_sync(self._put_aside, path, reasons)
        _log.warning("task file rejected", file=moved.name, reasons=len(reasons), first=reasons[0])

    def _put_aside(self, path: Path, reasons: Sequence[str]) -> Path:
        """The report goes first: a crash in between leaves the file in `taken`, to be refused again."""
        target = self._free_name(path.name, "rejected")
        # A name need not be text.
        report = {"file": _as_text(target.name), "time": time.time(), "reasons": [_as_text(one) for one in reasons]}
        target.with_name(target.name + REPORT_SUFFIX).write_bytes(
            orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        )
        return path.rename(target)

    def _make_folders(self) -> None:
        for place in _PLACES:
            (self.folder / place).mkdir(parents=True, exist_ok=True)

    def _waiting(self) -> _Waiting:
        found: dict[str, Version] = {}
        unfit: dict[str, str] = {}
        others: list[str] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.name.endswith(SUFFIX):
                    if entry.name not in _PLACES and (
                        "json" in entry.name.lower() or entry.is_dir(follow_symlinks=False)
                    ):
                        others.append(entry.name)
                    continue
                with contextlib.suppress(FileNotFoundError):  # its owner may have taken it away again
                    status = entry.stat(follow_symlinks=False)
                    if reason := _unfit(status):
                        unfit[entry.name] = reason
                    else:
                        found[entry.name] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return _Waiting(found, unfit, others)

    def _take(self, path: Path) -> bool:
        """Move a file to where it is submitted from; False if somebody writes it still."""
        # Its owner may have taken it away again, which is no trouble.
        with contextlib.suppress(FileNotFoundError):
            if _is_being_written(path):
                return False
            self._move(path, "taken")
        return True

    def _taken(self) -> list[Path]:
        return sorted((self.folder / "taken").glob(f"*{SUFFIX}"))

    def _move(self, path: Path, place: Place) -> Path:
        return path.rename(self._free_name(path.name, place))

    def _free_name(self, name: str, place: Place) -> Path:
        """A path in a subfolder that nothing has; ours is the only process that puts anything there."""
        folder = self.folder / place
        stem, number = os.fsdecode(os.fsencode(name.removesuffix(SUFFIX))[:_NAME_BYTES]), 1
        target = folder / f"{stem}{SUFFIX}"
        while target.exists():
            number += 1
            target = folder / f"{stem}-{number}{SUFFIX}"
        return target


def rejected_files(folder: Path) -> int | None:
    """How many task files lie rejected in a spool folder until somebody mends or removes them; None if unknown."""
    try:
        return sum(name.endswith(SUFFIX) for name in os.listdir(folder / "rejected"))  # noqa: PTH208 - names alone
    except FileNotFoundError:
        return 0
    except OSError:
        return None


@contextlib.contextmanager
def _noting(troubles: dict[str, OSError | StoreError], path: Path) -> Iterator[None]:
    """Let the block fail for the sake of the folder or the disk, and note it."""
    try:
        yield
    except (OSError, StoreError) as error:
        troubles[str(path)] = error


def _said(error: OSError | StoreError) -> str:
    """A trouble in words, without the number of its kind."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _unfit(status: os.stat_result) -> str | None:
    """Why something with the name of a task file is not taken, if it is not."""
    if stat.S_ISREG(status.st_mode):
        return None if status.st_size else "it is empty"
    if stat.S_ISLNK(status.st_mode):
        return "it is a link"
    return _FOLDER if stat.S_ISDIR(status.st_mode) else "it is no file but a pipe, socket or device"


def _is_being_written(path: Path) -> bool:
    """Whether a process has a file open for writing; False where that cannot be known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        return False  # to be refused by whoever reads it
    try:
        # Whoever opens it for writing while we hold the lease has us sent a signal, which by default would end us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        # The kernel gives a lease for reading on a file that nobody has open for writing.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:  # another user's file, or a file system without leases
        return False
    finally:
        os.close(descriptor)
    return False


def _as_text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
