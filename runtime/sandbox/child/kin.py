"""Ending all descendants of a process, whatever they do against it.

The caller has adopted orphans, so everything that an execution leaves is, or becomes, a child of the caller.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

_PAUSE_S = 0.002
_LOOKS = 50
_LISTS_CHILDREN = Path("/proc/thread-self/children").exists()

Reaped = Callable[[int, int], None]


def reap(reaped: Reaped) -> bool:
    """Collect the children that have ended; whether any child is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        reaped(pid, status)


def kill_all_code() -> None:
    """Kill all processes of the identity that the caller acts as, but itself.

    Raises:
        PermissionError: the caller would reach processes that are none of ours.
    """
    if 0 in {os.getuid(), os.geteuid()}:
        raise PermissionError("root would kill every process of the machine")
    # One call reaches them all at once: no fork can slip through between two of them.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def end_all_code(reaped: Reaped, seconds: float) -> bool:
    """End all processes of the identity that the caller acts as, a supervisor. Whether all are gone in time."""
    deadline = time.monotonic() + seconds
    while True:
        kill_all_code()
        if not reap(reaped):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)


def end_descendants(spared: Collection[int], reaped: Reaped, seconds: float) -> bool:
    """End all descendants but the spared ones and theirs. Whether all are gone in time.

    They are stopped before they are killed: a stopped process still counts against the limit on processes, so a
    fork bomb runs out of room instead of growing back.
    """
    deadline = time.monotonic() + seconds
    while True:
        reap(reaped)
        found = _stop(spared)
        if not found:
            return True
        for pid in found:
            _signal(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)


def end_marked(marker: str) -> None:
    """End all processes of this user, but this one, whose environment at their start held the marker."""
    wanted = marker.encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        # Unreadable are those of other users, and supervisors, who see to their own end.
        with contextlib.suppress(OSError):
            if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                _signal(int(entry.name), signal.SIGKILL)


def _stop(spared: Collection[int]) -> set[int]:
    """Stop all descendants, looking until nobody new turns up; who they are."""
    stopped: set[int] = set()
    for _ in range(_LOOKS):
        fresh = False
        seen: set[int] = set()
        level = [os.getpid()]
        while level:
            for child in _children(level.pop()):
                if child in spared or child in seen:
                    continue
                seen.add(child)
                level.append(child)
                if child not in stopped:
                    fresh = True
                    _signal(child, signal.SIGSTOP)
        stopped = seen
        if not fresh:
            break
    return stopped


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                found += map(int, Path(task, "children").read_bytes().split())
            except FileNotFoundError:
                if not _LISTS_CHILDREN:
                    return _children_by_search(pid)
    return found


def _children_by_search(pid: int) -> list[int]:
    """For kernels built without the lists of children."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name of the program, in parentheses, may hold anything.
                if int(Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
