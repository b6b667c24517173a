"""Who a process has started, and whether they are still there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio

_GONE_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process; the moment of its start tells it from a later one of the same number."""

    pid: int
    started: int

    @property
    def is_there(self) -> bool:
        """Whether it still runs; what only waits to be reaped does not."""
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and stat.state not in "ZX"


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    parent: int
    started: int
    state: str


def descendants(pid: int) -> set[ProcessId]:
    """All processes below one, at this moment."""
    children: dict[int, list[_Stat]] = {}
    for entry in Path("/proc").iterdir():
        stat = _stat(int(entry.name)) if entry.name.isdecimal() else None
        if stat is not None:
            children.setdefault(stat.parent, []).append(stat)
    found, ahead = set[ProcessId](), [pid]
    while ahead:
        for stat in children.get(ahead.pop(), []):
            found.add(ProcessId(stat.pid, stat.started))
            ahead.append(stat.pid)
    return found


async def wait_until_gone(processes: Iterable[ProcessId]) -> list[ProcessId]:
    """Wait for processes that are no children of ours to end; those that are still there at the deadline."""
    left = list(processes)
    with anyio.move_on_after(_GONE_DEADLINE_S):
        # Nobody tells us of the end of a process that is not our child.
        while left := [process for process in left if process.is_there]:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return left


def _stat(pid: int) -> _Stat | None:
    with contextlib.suppress(OSError):
        # The name, in brackets, may hold anything.
        fields = (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return _Stat(pid, int(fields[1]), int(fields[19]), fields[0])
    return None
