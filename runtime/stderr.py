"""Lines on stderr, where whoever reads them holds up nobody who has work to do.

A pager that waits for its user, or a service that collects logs and hangs, stops reading. Once the pipe is full, each
further line would stop the event loop with all that it has at work.
"""

from __future__ import annotations

import contextlib
import select
import sys
import threading
import time
from collections.abc import Iterator

# At most 10 bytes each, as one that must be written as \\U0001f600: a pipe that takes anything takes PIPE_BUF bytes.
_CHARACTERS = 400
_PATIENCE_MS = 50
_IMPATIENT_S = 1.0


class Stderr:
    """Whatever `sys.stderr` is at the time: a progress display puts something there that writes above its bars.

    Outside of `holding_up_nothing`, as in a command that has nothing else to do, lines wait until they are taken.
    """

    def __init__(self) -> None:
        self._is_at_work = False
        self._impatient_until = 0.0
        self._is_cut = False
        self._writing = threading.RLock()  # a finaliser may have something to say at any time

    @contextlib.contextmanager
    def holding_up_nothing(self) -> Iterator[None]:
        """While the block works, leave out what is not taken soon."""
        self._is_at_work = True
        try:
            yield
        finally:
            self._is_at_work = False

    def write_line(self, line: str) -> bool:
        """Write a line; whether that could be done."""
        with self._writing:
            text = f"\n{line}\n" if self._is_cut else f"{line}\n"
            for start in range(0, len(text), _CHARACTERS):
                if not (self.takes_more() and _wrote(text[start : start + _CHARACTERS])):
                    self._is_cut |= start > 0
                    return False
            self._is_cut = False
            return True

    def takes_more(self) -> bool:
        """Whether something is taken without a wait, or after a short one, of which there is one a second at most."""
        if not self._is_at_work:
            return True
        now, poll = time.monotonic(), select.poll()
        try:
            poll.register(sys.stderr, select.POLLOUT)
            if poll.poll(0 if now < self._impatient_until else _PATIENCE_MS):
                return True
        except (OSError, ValueError):  # no file, or a process that may open none any more
            return True
        self._impatient_until = max(self._impatient_until, now + _IMPATIENT_S)
        return False


def _wrote(text: str) -> bool:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # a terminal that was closed, a reader that has left, a full disk
        return False
    return True


stderr = Stderr()
