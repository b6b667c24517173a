"""Trouble with the data directory: telling it from a write's own fault, and knowing when it has cleared.

A full or read-only disk, an I/O error, too few file descriptors or a foreign lock say nothing about the work that met
them. So such work waits and is done again, whole, where a fault of its own would be handed to whoever asked for it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - asyncio would import it with the first probe, when no file can be opened
import contextlib
import errno
import math
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeAlias

from store.errors import DamagedDatabaseError, StorageError, StorageTroubleError

TroubleListener: TypeAlias = Callable[[StorageTroubleError | None], None]

RETRY_S = 1.0
# Less than this and the next checkpoint or workspace fails; more would call small but working disks full.
_PROBE_BYTES = 1 << 20
# Likewise for what a rollout opens: its sandbox, a connection, a file or two.
_PROBE_DESCRIPTORS = 16
_FEW_FILES = 16
# How long the answer of a probe holds: what fails together is one question.
_PROBE_HOLDS_S = 1.0

_KINDS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EEXIST: "missing",
    errno.EIO: "io",
    errno.ESTALE: "io",
    errno.EFBIG: "file-size",
}
_SQLITE_KINDS = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "denied",
    sqlite3.SQLITE_PERM: "denied",
    sqlite3.SQLITE_CANTOPEN: "io",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_PROTOCOL: "busy",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
}
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# For each kind what is wrong with a directory, and what a person can do.
_WORDS = {
    "full": ("the disk of {directory} is full ({free})", "free some space there"),
    "read-only": ("{directory} is on a read-only disk", "see why it is (dmesg, mount), make it writable"),
    "denied": ("{directory} may not be written to by this user (uid {uid})", "change its owner or permissions"),
    "descriptors": (
        "process {pid} has too few file descriptors left to work on {directory} ({reason})",
        "raise its limit (ulimit -n, prlimit), or lower run.rollouts",
    ),
    "missing": ("{directory} is not a folder that can be made or used", "see what is there, or name another one"),
    "io": ("{directory} cannot be read or written ({reason})", "see what the disk says (dmesg)"),
    "file-size": ("files in {directory} may not grow ({reason})", "raise the limit of file sizes (ulimit -f)"),
    "busy": ("another program holds the database in {directory} ({reason})", "end that program"),
}


def storage_error(error: BaseException, database: Path) -> StorageError | None:
    """What is wrong with the data directory if that is why something failed; None if it failed for its own reasons.

    May write a probe into the directory to find the reason behind what SQLite calls an I/O error or read-only.

    Args:
        database: the database's file, in the directory.
    """
    directory = database.parent
    if isinstance(error, StorageError):
        return error
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGE:
            return DamagedDatabaseError(database, str(error))
        kind = _SQLITE_KINDS.get(code)
        if kind is None:
            return None
        # SQLite gives one word for many reasons; the operating system tells them apart.
        found = probe(directory) if kind in ("io", "denied") else None
        return found or _trouble(kind, directory, _sqlite_reason(error))
    if isinstance(error, OSError):
        kind = _KINDS.get(error.errno or 0)
        return _trouble(kind, directory, str(error.strerror)) if kind else None
    return None


def probe(directory: Path) -> StorageTroubleError | None:
    """Try whether the directory takes a file of one megabyte, and this process some files; what is wrong if not."""
    file = directory / f".probe-{os.getpid()}-{id(directory):x}"
    opened: list[int] = []
    try:
        opened.append(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        file.unlink()  # at once, so that nothing stays behind whatever happens
        os.posix_fallocate(opened[0], 0, _PROBE_BYTES)
        os.fsync(opened[0])
        while len(opened) < _PROBE_DESCRIPTORS:
            opened.append(os.dup(opened[0]))
    except OSError as error:
        return _trouble(_KINDS.get(error.errno or 0, "io"), directory, str(error.strerror))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return None


def _probe_with(others: Collection[Path], directory: Path) -> StorageTroubleError | None:
    """What is wrong with the directory; or which of the others, as far as they are still there, is on a full disk."""
    if found := probe(directory):
        return found
    # Room that is kept for us alone does not help whoever else needs it there, such as code.
    full = next((folder for folder in others if _is_dir(folder) and not has_room(folder)), None)
    return _trouble("full", full, os.strerror(errno.ENOSPC)) if full else None


def lacks_descriptors(error: BaseException) -> bool:
    """Whether something failed, itself or in what it came from, because no file descriptor was left."""
    return any(_kind(one) == "descriptors" for one in _origins(error))


def full_folders(error: BaseException) -> set[Path]:
    """Folders that something failed for, itself or in what it came from, because their disk was full."""
    named = {
        Path(os.fsdecode(one.filename))
        for one in _origins(error)
        if isinstance(one, OSError) and _kind(one) == "full" and isinstance(one.filename, str | bytes)
    }
    folders = {path if _is_dir(path) else path.parent for path in named}
    return {folder for folder in folders if _is_dir(folder)}


def _is_dir(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - a Path raises where it may not look, or the disk has gone


def _kind(error: BaseException) -> str | None:
    return _KINDS.get(error.errno or 0) if isinstance(error, OSError) else None


def _origins(error: BaseException) -> Iterator[BaseException]:
    """An error, and whatever led to it."""
    ahead, seen = [error], set[int]()
    while ahead:
        one = ahead.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            ahead += one.exceptions
        ahead += [before for before in (one.__cause__, one.__context__) if before is not None]


def free_bytes(directory: Path) -> int | None:
    """Bytes that this user may still write on the directory's disk; None if nobody can tell."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else None
    return None


def has_room(directory: Path) -> bool:
    """Whether a megabyte and a few files would fit on the directory's disk; also where nobody can tell.

    With less, what ran in the directory may have failed for want of it.
    """
    try:
        disk = os.statvfs(directory)
    except OSError:
        return True
    # Some file systems tell of no size, as a tmpfs without a limit.
    fits = disk.f_blocks == 0 or disk.f_bavail * disk.f_frsize >= _PROBE_BYTES
    return fits and (disk.f_files == 0 or disk.f_favail >= _FEW_FILES)


def _trouble(kind: str, directory: Path, reason: str) -> StorageTroubleError:
    what, next_step = _WORDS[kind]
    free = free_bytes(directory)
    said = "free space unknown" if free is None else f"{free / 1e6:.1f} MB free"
    words = what.format(directory=directory, free=said, reason=reason, uid=os.geteuid(), pid=os.getpid())
    return StorageTroubleError(kind, words, next_step, directory=directory)


def _sqlite_reason(error: sqlite3.Error) -> str:
    return f"{error}, {getattr(error, 'sqlite_errorname', 'no code')}"


class Standing:
    """Whether a data directory can be used at the moment, and who is to hear of it. Lives on one event loop."""

    def __init__(self, directory: Path, listener: TroubleListener) -> None:
        self._directory = directory
        self._listener = listener
        # By who met it: what the writer waits for is not over because a probe went well.
        self._troubles: dict[str, StorageTroubleError] = {}
        self._clear = asyncio.Event()
        self._clear.set()
        self._probing = asyncio.Lock()
        # Not of whoever met the trouble: that one may be cancelled, which ends no trouble.
        self._prober: asyncio.Task[None] | None = None
        self._sound_at = -math.inf
        self._ended_at = -math.inf

    @property
    def trouble(self) -> StorageTroubleError | None:
        """What is wrong now, if anything is."""
        return next(iter(self._troubles.values()), None)

    @property
    def own_trouble(self) -> StorageTroubleError | None:
        """The same, but for what is wrong with other directories."""
        return next((one for one in self._troubles.values() if one.directory in (None, self._directory)), None)

    def begin(self, source: str, trouble: StorageTroubleError) -> None:
        """Someone has met trouble; people hear of each sort once."""
        known = {(one.trouble, one.directory) for one in self._troubles.values()}
        self._troubles[source] = trouble
        self._clear.clear()
        if (trouble.trouble, trouble.directory) not in known:
            self._listener(trouble)

    def end(self, source: str) -> None:
        """Whoever met trouble has got through."""
        if self._troubles.pop(source, None) is not None and not self._troubles:
            self._ended_at = time.monotonic()
            self._clear.set()
            self._listener(None)

    async def until_clear(self) -> None:
        """Wait for the end of all trouble; at once if there is none."""
        await self._clear.wait()

    async def was_trouble(self, error: BaseException) -> bool:
        """Find out whether something that just failed with an error may have failed for the machine's sake.

        If so, return only once the directory can be used again, and any other whose disk the error says is full.
        """
        async with self._probing:
            await self.until_clear()
            now = time.monotonic()
            if now < self._ended_at + _PROBE_HOLDS_S:
                return True
            others: Collection[Path] = ()
            if lacks_descriptors(error):
                # Whoever failed has since closed what it had: a probe would find nothing wrong.
                found: StorageTroubleError | None = _trouble("descriptors", self._directory, "Too many open files")
            else:
                others = await asyncio.to_thread(full_folders, error)
                if not others and now < self._sound_at + _PROBE_HOLDS_S:
                    return False
                found = await asyncio.to_thread(_probe_with, others, self._directory)
            if found is not None:
                self.begin("probe", found)
                self._prober = asyncio.create_task(self._probe_until_sound(found, others), name="disk probe")
                await self.until_clear()
                return True
            self._sound_at = time.monotonic()
            return False

    async def _probe_until_sound(self, found: StorageTroubleError | None, others: Collection[Path]) -> None:
        """Tell of the end of trouble once probes of the directory and of other folders go well."""
        while found is not None:
            self.begin("probe", found)
            await asyncio.sleep(RETRY_S)
            with contextlib.suppress(OSError, RuntimeError):  # no thread for it, for one: it is looked again
                found = await asyncio.to_thread(_probe_with, others, self._directory)
        self.end("probe")

    async def close(self) -> None:
        """Look no more for the end of trouble, and say nothing of it."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
