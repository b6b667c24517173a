"""Folders for temporary files: held while their zygote lives, and removed by a later one if nobody holds them.

A zygote removes its own, unless it is killed or there is too much in it. The lock also keeps systemd's cleaning of
old temporary files away from that of a zygote which has had nothing to do for days.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from . import tree

PREFIX = "cso-sandbox-"
# A younger one may belong to a zygote that is just coming up.
_YOUNG_S = 300.0


def hold(folder: str) -> int:
    """Hold a folder until the descriptor that this gives, and all copies of it in forks, are closed."""
    descriptor = tree.open_folder(folder)
    with contextlib.suppress(OSError):  # a file system without locks, where none is swept either
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def sweep(parent: str, seconds: float) -> None:
    """Remove the folders of this user that nobody holds, as far as that goes in so many seconds."""
    deadline = time.monotonic() + seconds
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(PREFIX)]
    for path in found:
        with contextlib.suppress(OSError):
            _remove_if_left(path, deadline)


def _remove_if_left(path: str, deadline: float) -> None:
    descriptor = tree.open_folder(path)
    try:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _YOUNG_S:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tree.remove(path, deadline - time.monotonic())
    finally:
        os.close(descriptor)
