"""Progress on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from importlib import import_module
from typing import TYPE_CHECKING

import anyio

from runtime.cli.output import say
from runtime.cli.report import counted
from runtime.cli.tally import Tally
from runtime.stderr import stderr

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_REFRESH_S = 0.1
_PLAIN_EVERY_S = 5.0
_ROOM_FOR_BARS = 100


@contextlib.asynccontextmanager
async def show_progress(tally: Tally) -> AsyncIterator[None]:
    """Show a tally while the block runs."""
    show = _bars if sys.stderr.isatty() else _lines
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(show, tally)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


async def _lines(tally: Tally) -> None:
    while True:
        await anyio.sleep(_PLAIN_EVERY_S)
        say(
            f"tasks {tally.tasks_finished}/{tally.tasks}"
            f" · rollouts {tally.rollouts.total()}/{tally.expected_rollouts}"
            f" · steps scored {tally.scored}/{tally.expected_scores} · branches {tally.branches.total()}"
            f" · pairs {tally.pairs} · calls {tally.calls.total()}"
        )


async def _bars(tally: Tally) -> None:
    # Imported here because only a terminal shows bars, and first in a thread because the loop has work by now.
    await anyio.to_thread.run_sync(import_module, "rich.progress")
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description:<13}"),
        *([BarColumn(bar_width=28)] if console.width >= _ROOM_FOR_BARS else []),
        TextColumn("{task.completed:>6.0f}/{task.total:<6.0f}"),
        TextColumn("{task.fields[rate]:>8}"),
        # The numbers beside it are no use in parts.
        TextColumn("{task.fields[note]}", style="dim", table_column=Column(overflow="fold")),
        console=console,
        auto_refresh=False,
    )
    bars = _Bars(progress, tally)
    # A context manager of rich's own would redraw from a thread; the loop has the numbers.
    progress.start()
    try:
        while True:
            _draw(bars, progress)
            await anyio.sleep(_REFRESH_S)
    finally:
        _draw(bars, progress)
        with contextlib.suppress(OSError):
            if stderr.takes_more():
                progress.stop()


def _draw(bars: _Bars, progress: Progress) -> None:
    """Draw anew, unless the terminal is held, as by Ctrl-S, or gone: neither holds up or ends any work."""
    with contextlib.suppress(OSError):
        if stderr.takes_more():
            bars.update()
            progress.refresh()


class _Bars:
    """One bar for each stage of the method."""

    def __init__(self, progress: Progress, tally: Tally) -> None:
        self._progress = progress
        self._tally = tally
        self._began = time.monotonic()
        self._first = self._counts()
        self._ids: dict[str, TaskID] = {
            name: progress.add_task(name, total=0, rate="", note="") for name in self._first
        }

    def update(self) -> None:
        """Bring the bars up to the tally."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        for name, (done, total, note) in self._counts().items():
            rate = (done - self._first[name][0]) / seconds
            self._progress.update(
                self._ids[name], completed=done, total=max(total, done), rate=f"{rate:.1f}/s", note=note
            )

    def _counts(self) -> dict[str, tuple[int, int, str]]:
        tally = self._tally
        verdicts = tally.rollouts
        return {
            "rollouts": (
                verdicts.total(),
                tally.expected_rollouts,
                f"{verdicts['success']} success, {verdicts['failure']} failure",
            ),
            "steps scored": (tally.scored, tally.expected_scores, f"{tally.critical} candidate critical"),
            "branches": (
                tally.branches.total(),
                tally.branches.total(),
                f"{tally.branches['success']} verified, {tally.branches['failure']} refuted",
            ),
            "pairs": (tally.pairs, tally.pairs, _bought(tally)),
            "tasks done": (tally.tasks_finished, tally.tasks, self._time_and_trouble()),
        }

    def _time_and_trouble(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        failed = self._tally.failed_deliveries
        return f"{minutes}:{seconds:02d} min" + (
            f", {counted(failed, 'failed delivery', 'failed deliveries')}" if failed else ""
        )


def _bought(tally: Tally) -> str:
    text = f"{tally.calls.total()} model calls, {tally.tokens:,} tokens"
    return f"{text}, cost {tally.cost:,.2f}" if tally.cost else text
