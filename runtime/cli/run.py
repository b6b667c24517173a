"""`cso run`: work task files off against the configured endpoints, from wherever the run stands."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anyio
import typer

from runtime.cli.ending import exit_code
from runtime.cli.identity import AcceptOption, NewRunOption, settle_identity
from runtime.cli.options import tell_notices
from runtime.cli.output import say, write_data, write_json
from runtime.cli.rehearse import rehearse as rehearse_tasks
from runtime.cli.report import summary_json, summary_text
from runtime.cli.working import work_off
from runtime.config.loading import load_settings
from runtime.eventlog import EVENTS_FILE
from store.errors import TaskFileError
from store.formats.task_files import Problem, TaskRecord, read_tasks


def run(
    tasks: Annotated[list[Path], typer.Argument(help="Task files: JSON lines with question and answer.")],
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    name: Annotated[str | None, typer.Option("--run", help="Name of the run.")] = None,
    new_run: NewRunOption = False,
    accept: AcceptOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a task file that has a bad line.")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Estimate calls, tokens and cost with simulated models; buy nothing.")
    ] = False,
    sample: Annotated[int, typer.Option(min=1, max=10_000, help="Tasks that a rehearsal works through.")] = 20,
    failures: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of failed trajectories that a rehearsal assumes.")
    ] = 0.6,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Collect, resample and verify: tasks in, verified preference pairs out.

    Typed again, the same command goes on where it stopped.
    """
    overrides = {"run.data": data, "run.name": name}
    given = {key: str(value) for key, value in overrides.items() if value}
    loaded = tell_notices(load_settings(file, os.environ, given))
    records, problems = read_all(tasks, strict=strict)
    if rehearse:
        raise typer.Exit(rehearse_tasks(loaded.settings, records, sample=sample, failure_share=failures, json=json))
    settings = settle_identity(loaded.settings, new_run=new_run, accept=accept)
    worked = anyio.run(work_off, settings, os.environ, records)
    log = settings.run.data / EVENTS_FILE
    if json:
        write_json(summary_json(worked.summary, dataset=None))
    else:
        write_data(summary_text(worked.summary, dataset=None, log=log, currency=settings.budget.currency))
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
