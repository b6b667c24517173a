"""Stopping in stages, so that nothing that was paid for is lost.

The first SIGINT or SIGTERM, or the end of the terminal, cancels the work: nothing new is taken, and what still runs
are the model calls whose replies are being paid for, which hold on until they are journalled. People are told what is
waited for. The second signal ends the process at once, and so does the end of the grace; children notice that we are
gone, and everything earned is committed.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import anyio
from anyio.abc import TaskStatus

from runtime.clock import loop_time
from runtime.models.journal import Asking
from runtime.stderr import stderr

_FIRST_REPORT_S = 1.0
_NEXT_REPORT_S = 10.0
_NAMED = 5
LAST_WORDS_S = 5.0
EXIT_GRACE_OVER = 1

Tell = Callable[[str], None]


class Stop:
    """A stop that was asked for, or may be.

    Attributes:
        work: the scope to do the work in; it is cancelled by the first signal.
        signal: the first signal, once it has come.
        grace: seconds from the first signal to the end whatever happens; may be set anew.
        awaited: what holds up the end, in words, or nothing; to be set by whoever knows.
        last_words: called when the grace is over, to save what can be saved in a few seconds.
        on_stop: called at the first signal.
        on_hangup: called at every SIGHUP until a stop; where it is not set before the watch, that signal stops, too,
            unless it was ignored when we were started, as nohup has it.
    """

    def __init__(self, *, grace: float, tell: Tell) -> None:
        self.work = anyio.CancelScope()
        self.signal: signal.Signals | None = None
        self.grace = grace
        self.awaited: Callable[[], str] = str
        self.last_words: Callable[[], Awaitable[object]] = anyio.lowlevel.checkpoint
        self.on_stop: Callable[[], None] = lambda: None
        self.on_hangup: Callable[[], Awaitable[None]] | None = None
        self._tell = tell

    async def watch(self, *, task_status: TaskStatus[None]) -> None:
        """Wait for signals until cancelled."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if self.on_hangup is not None or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        async with anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(*numbers) as received:
                task_status.started()
                async for number in received:
                    if number == signal.SIGHUP and self.on_hangup is not None:
                        if self.signal is None:
                            tasks.start_soon(self._hang_up)
                    elif self.signal is None:
                        self.signal = number
                        self.on_stop()
                        self.work.cancel()
                        tasks.start_soon(self._wait)
                    elif number != signal.SIGHUP:  # which kernel and shell send one after the other
                        self._end_at_once(number)

    def _end_at_once(self, number: signal.Signals) -> None:
        """End the process without any cleanup that could wait for something, and say what that costs."""
        lost = self.awaited()
        without = f", without {lost}" if lost else ""
        self._tell(f"stopped at once{without}; what was committed stays")
        stderr.drain()
        os._exit(128 + number)

    async def _hang_up(self) -> None:
        assert self.on_hangup is not None  # or the signal would not be received
        await self.on_hangup()

    async def _wait(self) -> None:
        self._tell("stopping: nothing new is begun (a second signal stops at once)")
        with anyio.move_on_after(self.grace):
            await anyio.sleep(_FIRST_REPORT_S)
            while True:
                if awaited := self.awaited():
                    self._tell(f"waiting for {awaited}")
                await anyio.sleep(_NEXT_REPORT_S)
        try:
            lost = self.awaited()
            self._tell(f"given up after {self.grace:g} s" + (f", without {lost}" if lost else ""))
            with anyio.move_on_after(LAST_WORDS_S):
                await self.last_words()
        finally:  # also where nothing can be saved any more, as while the database closes
            stderr.drain()
            os._exit(EXIT_GRACE_OVER)


@contextlib.asynccontextmanager
async def staged_stop(stop: Stop) -> AsyncIterator[None]:
    """Let signals stop the block in stages."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(stop.watch)
        yield
        tasks.cancel_scope.cancel()


def described_calls(awaited: Collection[Asking]) -> str:
    """Calls that are waited for, at least one, the oldest first, with their ages."""
    now = loop_time()
    oldest = sorted(awaited, key=lambda asking: asking.since)
    names = [f"{asking.what} ({now - asking.since:.0f} s)" for asking in oldest[:_NAMED]]
    more = [f"{len(oldest) - _NAMED} more"] if len(oldest) > _NAMED else []
    plural = "reply" if len(oldest) == 1 else "replies"
    return f"{len(oldest)} {plural} being paid for: {', '.join(names + more)}"
