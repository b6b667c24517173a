"""`cso tail`: the log on the screen, read from the database, whether or not a daemon runs.

Following, it asks four times a second whether anything was committed, which costs one look at shared memory. It waits
for a database that is not there yet, and starts over where another one has taken its place.
"""

import io
import os
import re
import select
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, TypeAlias

import anyio
import typer

from runtime.cli.eventlines import EventLines, terminal_width, wants_colour
from runtime.cli.output import say, write_data
from runtime.cli.runs import chosen_runs
from runtime.config.loading import load_settings
from runtime.errors import ConfigError
from store.database import Reader
from store.errors import NoDatabaseError
from store.events import KINDS
from store.log import Entry, Log, Wanted, watch_commits

Show: TypeAlias = Callable[[Sequence[Entry]], None]

BUSY_KINDS = ("call-completed", "step-completed")
_POLL_S = 0.25
_LAST = 20
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user wants to see: the last so many events (0: all), behind a seq or from a time on (microseconds)."""

    folder: Path
    wanted: Wanted
    last: int
    seq: int = 0
    time: int | None = None


def tail(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what happens, until Ctrl-C.")] = False,
    last: Annotated[
        int | None,
        typer.Option("-n", min=0, help="Show the last so many events; 0: all.  [default: 20, with --since all]"),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Show what came after an event's seq, or from a time on: 10m, 2h, 2026-11-24T09:30."),
    ] = None,
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", metavar="KIND", help="Only events of this kind; may be repeated.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="Only events of this task.")] = None,
    name: Annotated[str | None, typer.Option("--run", help="Only events of this run.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Show {' and '.join(BUSY_KINDS)}, too, of which there are many.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, of all kinds.")] = False,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
) -> None:
    """Show what happened in the runs, and follow what happens.

    Reads the database; no daemon is needed, and none is disturbed.
    """
    hidden = () if everything or json or kinds else BUSY_KINDS
    wanted = Wanted(kinds=_checked(kinds) if kinds else None, but=hidden, task=task, run=name)
    folder = data or load_settings(file, os.environ, {}).settings.run.data
    seq, begin = (0, None) if since is None else parse_since(since, now=time.time())
    count = last if last is not None else _LAST if since is None else 0
    asked = Asked(folder=folder, wanted=wanted, last=count, seq=seq, time=begin)
    show = show_json if json else show_lines(one_run=name is not None)
    anyio.run(follow_log if follow else show_log, asked, show)


def _checked(kinds: Sequence[str]) -> Sequence[str]:
    for kind in kinds:
        if kind not in KINDS:
            near = get_close_matches(kind, KINDS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(KINDS)}"
            raise ConfigError(f"--kind {kind}: there is no such kind; {hint}")
    return kinds


def parse_since(text: str, *, now: float) -> tuple[int, int | None]:
    """The seq that --since names, otherwise 0 and the time that it names, in microseconds since 1970, UTC.

    Args:
        now: seconds since 1970, from which durations count back.

    Raises:
        ConfigError: it is neither a seq nor a duration nor a time.
    """
    if text.isascii() and text.isdigit():
        return int(text), None
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return 0, int((now - sum(float(number) * _UNITS_S[unit] for number, unit in parts)) * 1e6)
    try:
        return 0, int(datetime.fromisoformat(text).timestamp() * 1e6)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--since {text}: it is neither the seq of an event, nor a duration such as 90s, 10m or 1h30m, "
            "nor a time such as 2026-11-24T09:30 (local) or 2026-11-24T08:30Z"
        ) from None


def show_json(entries: Sequence[Entry]) -> None:
    """Write events as in log/events.jsonl."""
    write_data(b"".join(entry.line() for entry in entries).decode())
    sys.stdout.flush()


def show_lines(*, one_run: bool) -> Show:
    """Write events as lines for people.

    Args:
        one_run: only one run is shown, so that its name need not be.
    """
    terminal = sys.stdout.isatty()
    lines = EventLines(width=terminal_width(), colour=wants_colour(terminal=terminal), show_runs=not one_run)

    def show(entries: Sequence[Entry]) -> None:
        lines.width = terminal_width()
        write_data("".join(lines.lines(entries)))
        sys.stdout.flush()

    return show


async def show_log(asked: Asked, show: Show) -> None:
    """Show what was asked for and is there now.

    Raises:
        NoDatabaseError: nothing has been stored there yet.
        ConfigError: there is no such run or task.
    """
    async with Reader(asked.folder) as reader:
        log = Log(reader)
        if asked.wanted.run is not None:
            await chosen_runs(reader, asked.wanted.run)
        if asked.wanted.task is not None and not await log.has_task(asked.wanted.task, run=asked.wanted.run):
            raise ConfigError(f"{asked.folder} has no task named {asked.wanted.task!r}")
        end = await log.newest()
        await _show_between(log, await _start(log, asked, end), end, asked.wanted, show)


async def follow_log(asked: Asked, show: Show) -> None:
    """Show what was asked for, then what is committed, until cancelled; what is missing may yet come.

    Raises:
        BrokenPipeError: nobody reads the output any more.
    """
    told = False
    while True:
        try:
            async with Reader(asked.folder) as reader:
                await _follow_one(reader, asked, show)
        except NoDatabaseError:
            if not told:
                say(f"waiting for a run in {asked.folder}")
                told = True
            # Whatever it will hold when it appears is new.
            asked = replace(asked, last=0)
            _check_output()
            await anyio.sleep(_POLL_S)
        else:
            say(f"another database has taken the place of the one in {asked.folder}: starting over with that")
            asked = replace(asked, last=0, seq=0)
            told = True


async def _follow_one(reader: Reader, asked: Asked, show: Show) -> None:
    """Follow a database until its file is another one or gone."""
    log, opened = Log(reader), _identity(reader.file)
    try:
        seen = await _start(log, asked, await log.newest())
        async with watch_commits(reader) as anything_new:
            while _identity(reader.file) == opened:
                if await anything_new():
                    end = await log.newest()
                    await _show_between(log, seen, end, asked.wanted, show)
                    seen = max(seen, end)
                _check_output()
                await anyio.sleep(_POLL_S)
    except sqlite3.Error:
        if _identity(reader.file) == opened:
            raise


async def _start(log: Log, asked: Asked, end: int) -> int:
    """The seq behind which to begin where `end` is the last there is.

    Raises:
        ConfigError: there is no event of that seq yet.
    """
    if asked.seq > end:
        raise ConfigError(
            f"--since {asked.seq}: the newest event in {asked.folder} is {end}, so that one is of another folder"
        )
    start = asked.seq if asked.time is None else await log.before_time(asked.time, up_to=end)
    return max(start, await log.before_last(asked.last, asked.wanted, up_to=end)) if asked.last else start


async def _show_between(log: Log, start: int, end: int, wanted: Wanted, show: Show) -> None:
    async for page in log.pages(start, wanted, up_to=end):
        if page.entries:
            show(page.entries)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_output() -> None:
    """Raise BrokenPipeError once the reader of a pipe has left: a quiet log would not show it by itself."""
    try:
        output = sys.stdout.fileno()
    except io.UnsupportedOperation:
        return  # a test's
    poll = select.poll()
    poll.register(output, 0)
    if poll.poll(0):
        raise BrokenPipeError
