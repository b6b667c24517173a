"""Folders that hostile code has written: handing them over, making them readable again, emptying them.

All goes by descriptors of folders and follows no link, so that nothing outside is touched. The code that wrote a
folder has ended before any of this is done to it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
from collections.abc import Iterator

# Deeper than this a folder is left alone: each level costs two descriptors.
_DEEPEST = 200
_BATCH = 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_folder(path: str) -> int:
    """A descriptor of a folder that is not a link.

    Raises:
        OSError: there is none.
    """
    return os.open(path, _FOLDER)


def hand_over(folder: int, uid: int, known: range) -> None:
    """Make a folder and all that is in it a user's own, and closed to others.

    A file that has a second name may be one of somebody else's, linked to, so it changes hands only when it
    belonged to one of the `known` users, those of executions.

    Raises:
        OSError: the file system knows no owners.
    """
    for entry, parent in _walk(folder):
        status = entry.stat(follow_symlinks=False)
        alone = status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)
        if status.st_uid != uid and (alone or status.st_uid in known):
            os.chown(entry.name, uid, uid, dir_fd=parent, follow_symlinks=False)
    os.fchown(folder, uid, uid)
    os.fchmod(folder, stat.S_IRWXU)


def make_readable(folder: int, seconds: float) -> None:
    """Give the owner back what code took from itself: reading files; reading, entering and changing folders."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        os.fchmod(folder, os.fstat(folder).st_mode | stat.S_IRWXU)
        for entry, parent in _walk(folder, opening=True):
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode) and not mode & stat.S_IRUSR:
                os.chmod(entry.name, stat.S_IMODE(mode) | stat.S_IRUSR, dir_fd=parent)
            if time.monotonic() > deadline:
                return


def empty(folder: int, seconds: float) -> None:
    """Remove what is in a folder, however deep, and open it to its owner; after so many seconds the rest stays."""
    deadline = time.monotonic() + seconds
    fresh = (f"{os.urandom(8).hex()}-{number}" for number in itertools.count())
    with contextlib.suppress(OSError):
        os.fchmod(folder, stat.S_IRWXU)
        while True:
            # A folder may hold more entries than memory.
            with os.scandir(folder) as entries:
                found = list(itertools.islice(entries, _BATCH))
            for entry in found:
                if time.monotonic() > deadline:
                    return
                if entry.is_dir(follow_symlinks=False):
                    _dissolve(entry.name, folder, fresh, deadline)
                else:
                    os.unlink(entry.name, dir_fd=folder)
            if not found:
                return


def remove(path: str, seconds: float) -> None:
    """Remove a folder and all that is in it, however deep; after so many seconds the rest stays.

    Raises:
        OSError: something stayed, or there is no such folder.
    """
    os.chmod(path, stat.S_IRWXU)  # noqa: PTH101 - no pathlib in what every execution runs
    folder = open_folder(path)
    try:
        empty(folder, seconds)
    finally:
        os.close(folder)
    os.rmdir(path)  # noqa: PTH106 - likewise


def _dissolve(name: str, top: int, fresh: Iterator[str], deadline: float) -> None:
    """Remove a folder right below the top after moving the folders in it up: so no depth is too deep.

    Raises:
        OSError: it could not all be removed, or not in time.
    """
    os.chmod(name, stat.S_IRWXU, dir_fd=top)
    folder = os.open(name, _FOLDER, dir_fd=top)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} holds too much")
                if entry.is_dir(follow_symlinks=False):
                    # Moving a folder writes its parent's name into it.
                    os.chmod(entry.name, stat.S_IRWXU, dir_fd=folder)
                    os.rename(entry.name, next(fresh), src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(entry.name, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _walk(folder: int, depth: int = 0, *, opening: bool = False) -> Iterator[tuple[os.DirEntry[str], int]]:
    """All below a folder, each with the descriptor of the folder it is in; `opening` those closed to their owner."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry, folder
            if depth >= _DEEPEST or not entry.is_dir(follow_symlinks=False):
                continue
            if opening:
                mode = entry.stat(follow_symlinks=False).st_mode
                if mode & stat.S_IRWXU != stat.S_IRWXU:
                    os.chmod(entry.name, stat.S_IMODE(mode) | stat.S_IRWXU, dir_fd=folder)
            below = os.open(entry.name, _FOLDER, dir_fd=folder)
            try:
                yield from _walk(below, depth + 1, opening=opening)
            finally:
                os.close(below)
