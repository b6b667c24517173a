"""Workspaces: the folder in which a rollout's code works, captured after each step and restored exactly.

A restored workspace holds what the manifest names and nothing else. Only regular files, symbolic links and folders
are captured; pipes, sockets and devices are left out, and nothing is followed out of the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from runtime.clock import loop_time
from runtime.errors import ConfigError, CsoError, InfrastructureError
from runtime.logs import get_logger
from runtime.sandbox import closed_folder
from runtime.sandbox.child import tree
from runtime.shortcalls import ShortCalls, succeeds
from store.blobs import Packed, decode_blob, pack
from store.database import Reader
from store.manifests import Entry, FileEntry, FolderEntry, LinkEntry, Manifest
from store.transaction import Transaction
from store.trouble import has_room

T = TypeVar("T")
_REMOVE_DEADLINE_S = 60.0
# Whoever may run a file must not become its owner by that, and until code has it, a workspace is nobody else's.
_MODE, _CLOSED = 0o777, 0o700
_ENTRIES_PER_FILE = 4
_MOST_LEVELS = 100
_LONGEST_PATH = 2048  # of the 4,096 bytes that the system takes, with the way to the workspace
_log = get_logger("workspaces")


class WorkspaceTooLargeError(CsoError):
    """Raised when a workspace holds more than its limits allow; the message is meant for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceLimits:
    """How much a workspace may hold."""

    max_files: int = 10_000
    max_mb: int = 1024


@dataclass(frozen=True, slots=True)
class _Signature:
    """What tells, without reading, that a file has not changed since it was captured."""

    inode: int
    size: int
    modified: int
    changed: int


@dataclass(slots=True)
class Capture:
    """The files of a workspace at one moment, with the contents that the store may not have yet.

    These are packed as they are read: files of nothing but zeros, of which code can make many, take no memory.
    """

    entries: dict[str, Entry | Packed] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    signatures: dict[str, _Signature] = field(default_factory=dict)

    def store(self, transaction: Transaction) -> tuple[Manifest, int | None]:
        """Commit the contents; the manifest and its blob, None if there is nothing to keep."""
        entries = {
            path: FileEntry(transaction.blobs.packed(entry), self.modes[path]) if isinstance(entry, Packed) else entry
            for path, entry in self.entries.items()
        }
        manifest = Manifest(entries)
        return manifest, transaction.blobs.content(manifest.encode()) if entries else None


class Workspace:
    """One rollout's folder."""

    def __init__(self, path: Path, limits: WorkspaceLimits) -> None:
        self.path = path
        self._limits = limits
        self._known: dict[str, tuple[_Signature, FileEntry]] = {}

    async def capture(self) -> Capture:
        """What the folder holds now, after the code of a step.

        Raises:
            WorkspaceTooLargeError: it holds more than the limits allow.
            InfrastructureError: the disk is full, so that what the code did says nothing about the code.
        """
        if not has_room(self.path):
            raise InfrastructureError("the disk was full when the code of a step ran, so that nothing of it counts")
        # Most steps leave no file, and one look at an empty folder, too, takes less time than a thread.
        return Capture() if _is_empty(self.path) else await anyio.to_thread.run_sync(self._capture)

    async def restore(self, reader: Reader, manifest_blob: int | None) -> None:
        """Make the folder hold exactly what a manifest names."""
        await anyio.to_thread.run_sync(_empty, self.path)
        self._known.clear()
        if manifest_blob is None:
            return
        manifest = Manifest.decode(await _load(reader, manifest_blob))
        for path, entry in manifest.entries.items():
            content = await _load(reader, entry.blob) if isinstance(entry, FileEntry) else b""
            await anyio.to_thread.run_sync(_put, self.path / path, entry, content)

    def remember(self, capture: Capture, manifest: Manifest) -> None:
        """Note which blobs the captured files have, so that unchanged ones are not read again."""
        self._known = {
            path: (signature, entry)
            for path, signature in capture.signatures.items()
            if isinstance(entry := manifest.entries.get(path), FileEntry)
        }

    def _capture(self) -> Capture:
        capture = Capture()
        size = 0
        for path, status in _walk(self.path, _ENTRIES_PER_FILE * self._limits.max_files):
            name = path.relative_to(self.path).as_posix()
            if stat.S_ISREG(status.st_mode):
                size += max(status.st_size, status.st_blocks * 512)  # room may be taken beyond a file's end
            self._check(len(capture.entries) + 1, size)
            if stat.S_ISLNK(status.st_mode):
                capture.entries[name] = LinkEntry(os.readlink(path))  # noqa: PTH115 - a Path would tidy it up
            elif stat.S_ISDIR(status.st_mode):
                capture.entries[name] = FolderEntry(status.st_mode & _MODE)
            else:
                self._capture_file(capture, path, name, status)
        return capture

    def _capture_file(self, capture: Capture, path: Path, name: str, status: os.stat_result) -> None:
        signature = _Signature(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self._known.get(name)
        capture.signatures[name] = signature
        capture.modes[name] = status.st_mode & _MODE
        capture.entries[name] = known[1] if known and known[0] == signature else pack(_read(path))

    def _check(self, files: int, size: int) -> None:
        limits = self._limits
        if files > limits.max_files:
            raise WorkspaceTooLargeError(
                f"the working directory holds more than {limits.max_files} files, links and empty folders"
            )
        if size > limits.max_mb << 20:
            raise WorkspaceTooLargeError(f"the working directory holds more than {limits.max_mb} MB")


def workspaces_folder(data: Path) -> Path:
    """Where the workspaces of a data directory are made: in it, if code can get there.

    Run as root, code has a user of its own, to whom a home such as /root is closed. Workspaces last no longer than
    their rollouts, so the system's folder for temporary files will do, under a name that this data directory keeps.

    Raises:
        ConfigError: somebody else has taken that name.
    """
    inside = data.absolute() / "workspaces"
    if os.geteuid() != 0 or closed_folder(inside) is None:
        return inside
    digest = hashlib.blake2b(os.fsencode(data.resolve()), digest_size=8).hexdigest()
    outside = Path(tempfile.gettempdir()) / f"cso-workspaces-{digest}"
    with contextlib.suppress(FileNotFoundError):
        status = outside.lstat()
        if status.st_uid != 0 or not stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{outside} is not ours: remove it, or choose a data directory that others can pass")
    return outside


class Workspaces:
    """The folder under which all workspaces of a data directory are made; emptied when work starts."""

    def __init__(self, root: Path, limits: WorkspaceLimits) -> None:
        self._root = root
        self._limits = limits
        self._open: set[str] = set()
        self._calls = ShortCalls()

    async def remove(self) -> None:
        """Remove the folder and all in it."""
        await anyio.to_thread.run_sync(_try_to_remove, self._root)

    async def clear(self) -> None:
        """Remove what an earlier process left behind: the manifests in the store are what counts."""
        await self.remove()
        await anyio.to_thread.run_sync(self._make_root)

    def _make_root(self) -> None:
        # What could not be removed in time may be there still; no workspace begins with it.
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o711)

    def _make_anew(self, path: Path) -> None:
        """Make an empty folder in place of whatever is there, or has been cleaned away with all around it."""
        self._make_root()
        _remove(path)
        path.mkdir(mode=_CLOSED)

    @contextlib.asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Workspace]:
        """An empty workspace, removed in the end; what cannot be removed then is when it is opened again."""
        assert name not in self._open, "a workspace is one rollout's"
        path = self._root / name
        self._open.add(name)
        try:
            if not succeeds(partial(os.mkdir, path, _CLOSED)):  # which waits for the disk less than removing does
                await anyio.to_thread.run_sync(self._make_anew, path)
            yield Workspace(path, self._limits)
        finally:
            try:
                with anyio.CancelScope(shield=True, deadline=loop_time() + _REMOVE_DEADLINE_S):
                    if not await self._calls.succeeds(partial(os.rmdir, path)):
                        await anyio.to_thread.run_sync(_try_to_remove, path)
            finally:
                self._open.discard(name)


async def _load(reader: Reader, blob: int) -> bytes:
    row = await reader.fetch_one("SELECT data FROM blobs WHERE id = ?", (blob,))
    if row is None:
        raise LookupError(f"there is no blob {blob}")
    return await anyio.to_thread.run_sync(decode_blob, row["data"])


def _is_empty(folder: Path) -> bool:
    """Whether a folder is seen to be empty; not if the code has made it unreadable."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _walk(root: Path, most: int) -> Iterator[tuple[Path, os.stat_result]]:
    """Files and links below a folder, and folders that hold nothing that is kept; never through a link.

    Raises:
        WorkspaceTooLargeError: there are folders in folders beyond what can be restored anywhere, or more entries
            than `most`, those that are not kept among them.
    """
    folders, seen = [root], 0
    while folders:
        folder = folders.pop()
        with _opened(folder, os.scandir) as entries:
            found = list(itertools.islice(entries, most + 1 - seen))
        seen += len(found)
        if seen > most:
            raise WorkspaceTooLargeError(f"the working directory holds more than {most} entries of any kind")
        if folder != root and not any(map(_is_kept, found)):
            yield folder, folder.lstat()
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                below = Path(entry.path)
                _check_depth(below.relative_to(root))
                folders.append(below)
            elif _is_kept(entry):
                yield Path(entry.path), entry.stat(follow_symlinks=False)


def _is_kept(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False) or entry.is_symlink()


def _check_depth(folder: Path) -> None:
    if len(folder.parts) > _MOST_LEVELS or len(os.fsencode(folder)) > _LONGEST_PATH:
        raise WorkspaceTooLargeError(
            f"the working directory holds folders more than {_MOST_LEVELS} deep,"
            f" or paths of more than {_LONGEST_PATH} bytes"
        )


def _opened(path: Path, opener: Callable[[Path], T]) -> T:
    """Open what the code may have made unreadable for itself and so for us."""
    try:
        return opener(path)
    except PermissionError:
        path.chmod(stat.S_IMODE(path.lstat().st_mode) | stat.S_IRWXU)
        return opener(path)


def _read(path: Path) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(_opened(path, lambda file: os.open(file, flags)), "rb") as file:
        return file.read()


def _put(path: Path, entry: Entry, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match entry:
        case LinkEntry():
            path.symlink_to(entry.target)
        case FolderEntry():
            path.mkdir()
            path.chmod(entry.mode & _MODE)
        case FileEntry():
            path.write_bytes(content)
            path.chmod(entry.mode & _MODE)


def _empty(root: Path) -> None:
    with os.scandir(root) as entries:
        found = list(entries)
    for entry in found:
        _remove(Path(entry.path))


def _try_to_remove(path: Path) -> None:
    """Remove a workspace that nobody needs any more: a rollout that has ended well does not fail over it."""
    try:
        _remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.info("a workspace could not be removed and is left for later", folder=str(path), error=str(error))


def _remove(path: Path) -> None:
    """Remove a file, link or folder, whatever permissions the code gave it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    tree.remove(str(path), _REMOVE_DEADLINE_S)
