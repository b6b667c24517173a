"""`cso submit`: tasks into the queue of a data directory, whether or not a daemon works on it."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import anyio
import typer

from runtime.cli.options import ConfigOption, DataOption, JsonOption, settings_for
from runtime.cli.output import say, write_data, write_json
from runtime.cli.reach import patience, reach
from runtime.cli.reading import TASKS_HELP, read_all, tell_left_out
from runtime.cli.report import counted
from runtime.config.settings import Settings
from runtime.control import Submitted
from store.database import Reader
from store.errors import NoDatabaseError
from store.formats.task_files import TaskRecord
from store.runs import Run, find_run

_NAMED = 3  # of the tasks that are not worked on any more


def submit(
    tasks: Annotated[list[Path], typer.Argument(help=TASKS_HELP)],
    name: Annotated[str | None, typer.Option("--run", help="Run that takes them; begun if there is none.")] = None,
    priority: Annotated[
        int, typer.Option(min=-1_000_000, max=1_000_000, help="Tasks with a higher one go first.")
    ] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a task file that has a bad line.")] = False,
    file: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Put tasks into the queue; those that the run has already are left alone.

    With a daemon at work they are begun at once, in its run unless another is named; without one they wait for
    `cso serve`.
    """
    settings = settings_for(file, data, run=name)
    records, problems = read_all(tasks, strict=strict)
    is_new = name is not None and anyio.run(_found, settings.run.data, name) is None
    taken, is_daemon = anyio.run(_submit, settings, records, name, priority)
    if json:
        write_json({**asdict(taken), "left_out": len(problems), "daemon": is_daemon})
    else:
        write_data(_told(taken, is_new=is_new))
    _tell_halted(taken)
    tell_left_out(problems)
    if taken.run != settings.run.name:
        ours = settings.run.name
        say(f"note: {taken.run} is the run that the daemon takes tasks for; the configuration names {ours}")
    if not taken.new:
        return
    run = anyio.run(_found, settings.run.data, taken.run)
    if run is not None and run.paused:
        say(f"note: the run is paused, and the tasks wait for `cso resume --run {run.name}`")
    elif not is_daemon:
        say(f"no daemon works on {settings.run.data}: the tasks wait for `cso serve`")
    elif not taken.serving:
        say(f"note: the process at work does not work on run {taken.run}: the tasks wait for `cso serve`")


async def _found(data: Path, name: str) -> Run | None:
    try:
        async with Reader(data) as reader:
            return await find_run(reader, name)
    except NoDatabaseError:
        return None


def _told(taken: Submitted, *, is_new: bool) -> str:
    if not taken.new:
        is_done = not (taken.set_aside or taken.given_up)
        return f"nothing {'to do' if is_done else 'new'}: run {taken.run} has all of the tasks already"
    known = f", which has {counted(taken.known, 'other')} already" if taken.known else ""
    return f"{counted(taken.new, 'task')} taken into {'the new run' if is_new else 'run'} {taken.run}{known}"


def _tell_halted(taken: Submitted) -> None:
    """Say which of the tasks that are known are not worked on any more, and what has them done."""
    retry = f"cso retry --run {taken.run}"
    match taken.set_aside:
        case []:
            pass
        case [name]:
            say(f"task {name} was set aside after failures: `{retry} --task {shlex.quote(name)}` tries it again")
        case names:
            say(
                f"tasks {_listed(names)} were set aside after failures: `{retry} --task ID` tries one again,"
                f" `{retry}` all that was set aside"
            )
    match taken.given_up:
        case []:
            pass
        case [name]:
            say(f"task {name} was given up: to have it done, submit it under another id, or in a new run")
        case names:
            say(
                f"tasks {_listed(names)} were given up: to have one done, submit it under another id, or in a new run"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


async def _submit(
    settings: Settings, records: list[TaskRecord], run: str | None, priority: int
) -> tuple[Submitted, bool]:
    async with reach(settings, may_begin=True) as reached, patience(reached, lets_go=False):
        return await reached.control.submit(records, run=run, priority=priority), reached.is_daemon
