"""DIR/log/events.jsonl: the log of the database as JSON lines, for everything that reads files.

The file is derived: what is committed is read back from the database and appended behind the last seq that the
files hold. So it misses nothing and repeats nothing across restarts and `kill -9`; a line that was cut off is removed
at the start, and a full disk costs delay alone. A file that has grown to its limit becomes `events-SEQ.jsonl`, named
by its last event: those files in the order of their names, then events.jsonl, hold the events in order.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio
import orjson

from runtime.logs import get_logger
from store.database import Reader
from store.errors import StorageError
from store.events import Event
from store.log import Entry, Log, time_text

EVENTS_FILE = Path("log", "events.jsonl")
_BLOCK = 1 << 16
_GATHER_S = 0.2  # events gather for so long before they are written: a page costs hardly more than an event
_RETRY_S = 5.0
_FINISH_S = 10.0
_log = get_logger("eventlog")


@dataclass(frozen=True, slots=True)
class Mark:
    """The last event that the files hold; seq 0 if they hold none. `time` is as in its line."""

    seq: int = 0
    time: str = ""


class EventFiles:
    """The current file and the older ones beside it, as their one writer. Methods block, and never overlap.

    `last` is the seq of the last event that is written; None where the files must be opened first, as after an error.

    Args:
        current: the file that is written to.
        max_bytes: size at which it is put aside, in bytes; only a longer line makes a longer file.
        kept: how many older files are kept, at least 1.
    """

    def __init__(self, current: Path, *, max_bytes: int, kept: int) -> None:
        self.current = current
        self.last: int | None = None
        self._max_bytes = max_bytes
        self._kept = kept
        self._file: BinaryIO | None = None

    def open(self) -> Mark:
        """Remove a line that was cut off and find the last event; it may be in an older file.

        Raises:
            OSError: the folder or a file cannot be made, read or written.
        """
        self.close()
        self.current.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.current.open("ab", buffering=0)
        mark, end = _last_mark(self.current)
        if end < os.fstat(self._file.fileno()).st_size:
            self._file.truncate(end)
        for older in reversed(self._older()):
            if mark.seq:
                break
            mark, _ = _last_mark(older)
        self.last = mark.seq
        return mark

    def append(self, entries: Sequence[Entry]) -> None:
        """Write the events that follow the last one, at least one.

        Raises:
            OSError: the disk is full or the file cannot be written; the files must be opened again.
        """
        before, self.last = self.last, None
        assert before is not None, "the files are opened before they are written"
        self._file = self._writable()
        size = os.fstat(self._file.fileno()).st_size
        lines: list[bytes] = []
        for entry in entries:
            line = entry.line()
            if size > 0 and size + len(line) > self._max_bytes:
                self._write(lines)
                self._put_aside(before)
                lines, size = [], 0
            lines.append(line)
            size += len(line)
            before = entry.seq
        self._write(lines)
        self.last = before

    def begin_anew(self) -> Path:
        """Put all files into a folder of their own, which is returned: they do not belong to this database."""
        self.close()
        number = 1
        while (folder := self.current.parent / f"earlier-{number}").exists():
            number += 1
        folder.mkdir()
        for file in (*self._older(), self.current):
            file.rename(folder / file.name)
        self.last = 0
        return folder

    def close(self) -> None:
        """Close the current file; a power cut takes nothing of it from then on."""
        self.last = None
        if self._file is not None:
            with contextlib.closing(self._file) as file:
                self._file = None
                os.fsync(file.fileno())

    def _writable(self) -> BinaryIO:
        """The current file, made again where somebody removed or replaced it."""
        if self._file is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(self.current.stat(), os.fstat(self._file.fileno())):
                    return self._file
            self.close()
        self.current.parent.mkdir(parents=True, exist_ok=True)
        return self.current.open("ab", buffering=0)

    def _write(self, lines: Sequence[bytes]) -> None:
        assert self._file is not None, "whoever writes has opened the file"
        rest = memoryview(b"".join(lines))
        while rest:
            rest = rest[self._file.write(rest) :]

    def _put_aside(self, last: int) -> None:
        """Begin the next file. A crash between any two lines leaves files that `open` goes on from."""
        self.close()
        self.current.rename(self.current.with_name(f"events-{last:012d}.jsonl"))
        self._file = self.current.open("ab", buffering=0)
        for surplus in self._older()[: -self._kept]:
            surplus.unlink()

    def _older(self) -> list[Path]:
        return sorted(self.current.parent.glob("events-*.jsonl"))


class EventLog:
    """Keeps the files up with the database, whatever happens to either.

    Args:
        reader: of the database; it stays open for as long as this is used.
        files: see there.
    """

    def __init__(self, reader: Reader, files: EventFiles) -> None:
        self._log = Log(reader)
        self._files = files
        self._wake = anyio.Event()
        self._troubled = False

    def note(self, _event: Event) -> None:
        """Something was committed; this is for the bus to call."""
        self._wake.set()

    async def run(self) -> None:
        """Write what is committed until cancelled, soon after each commit."""
        while True:
            self._wake = anyio.Event()
            if await self._try_to_catch_up():
                await self._wake.wait()
                await anyio.sleep(_GATHER_S)
            else:
                await anyio.sleep(_RETRY_S)

    async def finish(self) -> None:
        """Write what is still missing and close the files, within seconds; the next start does what is left."""
        with anyio.move_on_after(_FINISH_S, shield=True):
            await self._try_to_catch_up()
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(self._files.close)
            except OSError as error:
                self._tell_trouble(error)

    async def _try_to_catch_up(self) -> bool:
        try:
            await self._catch_up()
        except (OSError, sqlite3.Error, StorageError) as error:
            self._tell_trouble(error)
            return False
        if self._troubled:
            self._troubled = False
            _log.info("the event log is up to date again", file=str(self._files.current))
        return True

    async def _catch_up(self) -> None:
        last = self._files.last
        if last is None:
            last = await self._open()
        up_to = await self._log.newest()
        async for page in self._log.pages(last, up_to=up_to):
            if page.entries:
                await anyio.to_thread.run_sync(self._files.append, page.entries)

    async def _open(self) -> int:
        mark = await anyio.to_thread.run_sync(self._files.open)
        if mark.seq == 0:
            return 0
        known = (await self._log.page(mark.seq - 1, up_to=mark.seq)).entries
        if [time_text(entry.time) for entry in known] == [mark.time]:
            return mark.seq
        folder = await anyio.to_thread.run_sync(self._files.begin_anew)
        _log.warning("the event log was of another database: put aside", folder=str(folder))
        return 0

    def _tell_trouble(self, error: Exception) -> None:
        if not self._troubled:
            self._troubled = True
            _log.warning(
                "the event log cannot be written: work goes on, and it catches up from the database later",
                file=str(self._files.current),
                error=str(error),
            )


def _last_mark(file: Path) -> tuple[Mark, int]:
    """The last event of a file, and where its line ends; what is behind that was cut off or is not ours."""
    for line, end in _lines_from_end(file):
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        match fields:
            case {"seq": int(seq), "time": str(time)} if seq > 0:
                return Mark(seq, time), end
    return Mark(), 0


def _lines_from_end(file: Path) -> Iterator[tuple[bytes, int]]:
    """Complete lines from the last to the first, each with the offset of its end."""
    with file.open("rb") as opened:
        position = opened.seek(0, os.SEEK_END)
        buffer = b""
        while buffer or position:
            cut = buffer.rfind(b"\n", 0, max(len(buffer) - 1, 0))
            if cut < 0 < position:
                step = min(_BLOCK, position)
                position = opened.seek(position - step)
                buffer = opened.read(step) + buffer
                continue
            line = buffer[cut + 1 :]
            if line.endswith(b"\n"):
                yield line, position + len(buffer)
            buffer = buffer[: cut + 1]
