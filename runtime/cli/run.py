"""`cso run`: work task files off against the configured endpoints, from wherever the run stands."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anyio
import typer

from runtime.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED
from runtime.cli.output import say, write_data, write_json
from runtime.cli.report import summary_json, summary_text
from runtime.cli.working import Worked, work_off
from runtime.config.loading import load_settings
from store.errors import TaskFileError
from store.formats.task_files import Problem, TaskRecord, read_tasks


def run(
    tasks: Annotated[list[Path], typer.Argument(help="Task files: JSON lines with question and answer.")],
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    name: Annotated[str | None, typer.Option("--run", help="Name of the run.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a task file that has a bad line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Collect, resample and verify: tasks in, verified preference pairs out.

    Typed again, the same command goes on where it stopped.
    """
    overrides = {"run.data": data, "run.name": name}
    loaded = load_settings(file, os.environ, {key: str(value) for key, value in overrides.items() if value})
    records, problems = read_all(tasks, strict=strict)
    worked = anyio.run(work_off, loaded.settings, os.environ, records)
    if json:
        write_json(summary_json(worked.summary, dataset=None))
    else:
        write_data(summary_text(worked.summary, dataset=None, log=None))
    if problems:
        say(f"{len(problems)} bad lines were left out: {', '.join(sorted({str(one.file) for one in problems}))}")
    raise typer.Exit(exit_code(worked))


def read_all(files: Sequence[Path], *, strict: bool) -> tuple[list[TaskRecord], list[Problem]]:
    """The tasks of several files; each bad line is told at once.

    Raises:
        TaskFileError: a file cannot be taken, or two files have a task of the same name.
    """
    records: dict[str, TaskRecord] = {}
    origins: dict[str, Path] = {}
    problems: list[Problem] = []
    for file in files:
        found = read_tasks(file, strict=strict)
        for problem in found.problems:
            say(str(problem))
        problems += found.problems
        for record in found.tasks:
            if record.answer is None:
                continue  # told above: without an answer nobody can judge it
            if record.name in records:
                raise TaskFileError(file, [f"task {record.name!r} is also in {origins[record.name]}: rename one"])
            records[record.name] = record
            origins[record.name] = file
    return list(records.values()), problems


def exit_code(worked: Worked) -> int:
    """What a shell learns of the work: whether it was stopped, and whether anything was set aside."""
    if worked.stopped_by is signal.SIGINT:
        say("interrupted: the same command goes on from here")
        return EXIT_INTERRUPTED
    if worked.stopped_by is signal.SIGTERM:
        say("stopped: the same command goes on from here")
        return 0
    if worked.summary.set_aside:
        say("some work was set aside after repeated failures: see `cso status`, put it back with `cso retry`")
        return EXIT_FAILED
    return 0
