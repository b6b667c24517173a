"""Lines on stderr, where whoever reads them holds up nobody who has work to do.

A pager that waits for its user, a terminal behind a connection that is dead or held with Ctrl-S, a service that
collects logs and hangs: they stop reading. Once what lies between is full, each further line would stop the event
loop with all that it has at work. So a thread writes while there is work, and what it has no room for is left out.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO, cast

# What may wait to be written, in characters; a text more is taken whole.
_ROOM = 1 << 16
_PATIENCE_S = 0.05
_IMPATIENT_S = 1.0
_LAST_S = 1.0


class Stderr:
    """Whatever `sys.stderr` is at the time: a progress display puts something there that writes above its bars.

    Outside of `holding_up_nothing`, as in a command that has nothing else to do, lines wait until they are taken.
    `left_out` counts lines that were not.
    """

    def __init__(self) -> None:
        self._outlet: _Outlet | None = None
        self.left_out = 0

    @contextlib.contextmanager
    def holding_up_nothing(self) -> Iterator[None]:
        """While the block works, have a thread write to stderr, and leave out what is not taken soon."""
        before, outlet = sys.stderr, _Outlet(sys.stderr)
        self._outlet, sys.stderr = outlet, cast("TextIO", outlet)
        try:
            yield
        finally:
            self._outlet, sys.stderr = None, before
            outlet.finish()

    def write_line(self, line: str) -> None:
        """Write a line, or count it if that cannot be done."""
        if not (self.takes_more() and _wrote(f"{line}\n", sys.stderr)):
            self.left_out += 1

    def takes_more(self) -> bool:
        """Whether there is room for more at once, or after a short wait, of which there is one a second at most."""
        if self._outlet is None:
            return True
        self.left_out += self._outlet.take_lost()
        return self._outlet.has_room or self._outlet.makes_room()

    def drain(self) -> None:
        """Wait a moment for what is to be written, in a process that is about to end without any cleanup."""
        if self._outlet is not None:
            self._outlet.drain()


class _Outlet(io.TextIOBase):
    """Texts for a file, handed to a thread. It is a daemon's, so that a process may end while it waits for a reader.

    It writes to the descriptor: an interpreter that ends would wait for the lock of a file that is in use.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._texts: list[str] = []
        self._held = 0
        self._lost = 0
        self._fails = False
        self._finished = False
        self._impatient_until = 0.0
        # A finaliser may have something to say at any time, also in the middle of this: its lock is a recursive one.
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="stderr", daemon=True).start()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the file."""
        return self._file.encoding

    def isatty(self) -> bool:
        """Whether the file is a terminal."""
        return self._file.isatty()

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._file.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def has_room(self) -> bool:
        """Whether more will be written soon."""
        return self._held < _ROOM and not self._finished

    def makes_room(self) -> bool:
        """Wait a moment for room, for the thread may only need one to come to write, or its reader to read."""
        now = time.monotonic()
        if now < self._impatient_until:
            return False
        with self._changed:
            if not self._changed.wait_for(lambda: self.has_room, timeout=_PATIENCE_S):
                self._impatient_until = now + _IMPATIENT_S
        return self.has_room

    def write(self, text: str, /) -> int:
        """Take a text; if there is no room, leave it out."""
        with self._changed:
            if self.has_room:
                self._texts.append(text)
                self._held += len(text)
                self._changed.notify_all()
        return len(text)

    def take_lost(self) -> int:
        """How many lines could not be written, told once and as soon as something can be written again."""
        with self._changed:
            lost, self._lost = (0, self._lost) if self._fails else (self._lost, 0)
        return lost

    def drain(self) -> None:
        """Wait a moment until all is written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held, timeout=_LAST_S)

    def finish(self) -> None:
        """Take no more, and wait a moment for the rest."""
        self.drain()
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts or self._finished)
                if not self._texts:
                    return
                texts, self._texts = self._texts, []
            text = "".join(texts)
            fails = not self._wrote(text)
            with self._changed:
                self._held -= len(text)
                self._fails = fails
                self._lost += text.count("\n") if fails else 0
                self._changed.notify_all()

    def _wrote(self, text: str) -> bool:
        try:
            descriptor = self._file.fileno()
        except (OSError, ValueError):  # something in memory
            return _wrote(text, self._file)
        rest = memoryview(text.encode(self._file.encoding, errors="backslashreplace"))
        try:
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:  # whoever started us wants it so
                    select.select([], [descriptor], [])
        except OSError:
            return False
        return True


def _wrote(text: str, file: TextIO) -> bool:
    try:
        file.write(text)
        file.flush()
    except (OSError, ValueError):  # a terminal that was closed, a reader that has left, a full disk
        return False
    return True


stderr = Stderr()
