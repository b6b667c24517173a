"""The notice that a daemon leaves in its data directory: where its API listens.

`DIR/daemon.json` is for finding the daemon and proves nothing: after a crash it stays behind. Whether a daemon lives
is decided by the lock alone, and a notice counts only if it names the lock's owner.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from store.database import FILE_NAME as DATABASE
from store.lock import DataLock
from store.trouble import storage_error

FILE_NAME = "daemon.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A daemon: its process, the base URL of its API, and when it started (seconds since 1970, UTC)."""

    pid: int
    url: str
    started: float


@contextlib.contextmanager
def posted(directory: Path, url: str) -> Iterator[Notice]:
    """Keep a notice in a data directory while the block runs; whoever does so holds the directory's lock.

    Raises:
        StorageError: the directory takes no files.
    """
    notice = Notice(pid=os.getpid(), url=url, started=time.time())
    file = directory / FILE_NAME
    new = file.with_suffix(".new")
    try:
        new.write_bytes(orjson.dumps(asdict(notice), option=orjson.OPT_APPEND_NEWLINE))
        new.replace(file)
    except OSError as error:
        raise storage_error(error, directory / DATABASE) or error from error
    try:
        yield notice
    finally:
        with contextlib.suppress(OSError):  # on a disk that has become read-only it stays, as after a crash
            file.unlink()


def read_notice(directory: Path) -> Notice | None:
    """The notice in a data directory, if there is one that can be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Notice(**orjson.loads((directory / FILE_NAME).read_bytes()))
    return None


def living_notice(directory: Path) -> Notice | None:
    """The notice of the daemon that works on a data directory now; None if there is no daemon."""
    notice, lock = read_notice(directory), DataLock(directory)
    return notice if notice is not None and lock.owner() == notice.pid and lock.is_held() else None
