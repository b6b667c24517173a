"""The spool folder: task files that are moved into it are taken up, each exactly once.

    SPOOL/*.jsonl      waiting; to be moved in whole (`mv` from the same disk), or at least left alone once complete
    SPOOL/taken/       being submitted; what a crash leaves there is submitted again, which is harmless
    SPOOL/done/        submitted
    SPOOL/rejected/    refused, each with NAME.report.json beside it that says why

A file with a bad line is refused whole. One that clashes with tasks that the run has may have been taken in part;
like every file it may be mended and moved in again, because tasks that are known are left alone.

A file is taken once its size and time have not changed between two looks, so that one that is still being written is
left alone. Names that begin with a dot or end in anything but .jsonl are not looked at. Files that tasks refer to lie
in SPOOL, relative to it, come before the task file, and stay. No file is ever overwritten: a name that is taken gets
a number.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import orjson
import structlog
from anyio.to_thread import run_sync

from runtime.control import LocalControl, Submitted
from runtime.errors import ConfigError
from store.errors import StoreError, TaskFileError
from store.formats.task_files import TaskRecord, read_tasks
from store.tasks import ChangedTaskError

SUFFIX = ".jsonl"
REPORT_SUFFIX = ".report.json"
LOOK_S = 1.0
_log = structlog.get_logger("spool")

Place = Literal["taken", "done", "rejected"]
# What tells a version of a file from another: device, inode, size, time of change.
Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The files that wait in the folder, by name, each with its version."""

    versions: Mapping[str, Version]

    def settled(self, earlier: _Waiting) -> list[str]:
        """The names that have not changed since, in the order of names."""
        return sorted(name for name, version in self.versions.items() if earlier.versions.get(name) == version)


class Spool:
    """Takes up the task files of a folder.

    Args:
        folder: made if it is missing.
        control: takes the tasks, into the run that its settings name.
    """

    def __init__(self, folder: Path, control: LocalControl) -> None:
        self._folder = folder
        self._control = control
        self._complaint = ""

    async def run(self) -> None:
        """Take up files until cancelled; what goes wrong with the folder is logged, and tried again."""
        seen = _Waiting({})
        while True:
            try:
                await self.finish_taken()
                seen = await self._look(seen)
                self._complaint = ""
            except (OSError, StoreError) as error:
                # Said once, not every second, for as long as it is the same.
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    _log.error("the spool folder cannot be used", folder=str(self._folder), error=str(error))
            await anyio.sleep(LOOK_S)

    async def finish_taken(self) -> None:
        """Submit what an earlier process, or a failed attempt, left in `taken`."""
        await run_sync(self._make_folders)
        for path in await run_sync(lambda: sorted((self._folder / "taken").glob(f"*{SUFFIX}"))):
            await self._submit(path)

    async def _look(self, seen: _Waiting) -> _Waiting:
        waiting = await run_sync(self._waiting)
        for name in waiting.settled(seen):
            await self._submit(await run_sync(self._move, self._folder / name, "taken"))
        return waiting

    async def _submit(self, path: Path) -> None:
        """Submit a file in `taken` and move it to where it belongs."""
        try:
            records = await run_sync(self._read, path)
            submitted = await self._control.submit(records)
        except TaskFileError as error:
            await self._reject(path, error.reasons)
        except (ChangedTaskError, ConfigError) as error:
            await self._reject(path, [str(error)])
        except (OSError, StoreError):
            raise  # the folder's or the disk's trouble, not the file's: tried again
        except Exception as error:  # noqa: BLE001 - the border to files: one that trips us must not stop the daemon
            _log.exception("task file not understood", file=path.name)
            await self._reject(path, [f"it met a defect of the program: {type(error).__name__}: {error}"])
        else:
            await self._accept(path, submitted)

    def _read(self, path: Path) -> Sequence[TaskRecord]:
        # Strict, because nobody watches: a file with a bad line comes back whole, to be mended and moved in again.
        return read_tasks(path, strict=True, folder=self._folder).tasks

    async def _accept(self, path: Path, submitted: Submitted) -> None:
        moved = await run_sync(self._move, path, "done")
        _log.info("task file taken", file=moved.name, new=submitted.new, known=submitted.known)

    async def _reject(self, path: Path, reasons: Sequence[str]) -> None:
        report = {"file": path.name, "time": time.time(), "reasons": list(reasons)}
        _log.warning("task file rejected", file=path.name, reasons=len(reasons), first=reasons[0])
        await run_sync(self._write_report, path, orjson.dumps(report, option=orjson.OPT_INDENT_2))

    def _write_report(self, path: Path, report: bytes) -> None:
        """The report goes first: a crash in between leaves the file in `taken`, to be refused again."""
        target = self._free_name(path.name, "rejected")
        target.with_name(target.name + REPORT_SUFFIX).write_bytes(report)
        path.rename(target)

    def _make_folders(self) -> None:
        for place in ("taken", "done", "rejected"):
            (self._folder / place).mkdir(parents=True, exist_ok=True)

    def _waiting(self) -> _Waiting:
        found: dict[str, Version] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.endswith(SUFFIX):
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found[entry.name] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return _Waiting(found)

    def _move(self, path: Path, place: Place) -> Path:
        target = self._free_name(path.name, place)
        path.rename(target)
        return target

    def _free_name(self, name: str, place: Place) -> Path:
        """A path in a subfolder that nothing has; ours is the only process that puts anything there."""
        folder = self._folder / place
        stem, number = name.removesuffix(SUFFIX), 1
        target = folder / name
        while target.exists():
            number += 1
            target = folder / f"{stem}-{number}{SUFFIX}"
        return target
