"""`cso run`: work task files off against the configured endpoints, from wherever the run stands."""

import os
from pathlib import Path
from typing import Annotated

import anyio
import typer

from runtime.cli.ending import exit_code
from runtime.cli.identity import AcceptOption, NewRunOption, settle_identity
from runtime.cli.options import tell_notices
from runtime.cli.output import write_data, write_json
from runtime.cli.reading import TASKS_HELP, read_all, tell_left_out
from runtime.cli.report import summary_json, summary_text
from runtime.cli.working import work_off
from runtime.config.loading import load_settings
from runtime.eventlog import EVENTS_FILE


def run(
    tasks: Annotated[list[Path], typer.Argument(help=TASKS_HELP)],
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

    Typed again, the same command goes on where it stopped, with --run NAME in place of any --new-run.
    """
    overrides = {"run.data": data, "run.name": name}
    given = {key: str(value) for key, value in overrides.items() if value}
    loaded = tell_notices(load_settings(file, os.environ, given))
    records, problems = read_all(tasks, strict=strict)
    if rehearse:
        # Imported here because it brings the simulated world, which no other run needs.
        from runtime.cli.rehearse import rehearse as rehearse_tasks

        raise typer.Exit(rehearse_tasks(loaded.settings, records, sample=sample, failure_share=failures, json=json))
    settings = settle_identity(loaded.settings, new_run=new_run, accept=accept)
    worked = anyio.run(work_off, settings, os.environ, records)
    log = settings.run.data / EVENTS_FILE
    if json:
        write_json(summary_json(worked.summary, dataset=None))
    else:
        write_data(summary_text(worked.summary, dataset=None, log=log, currency=settings.budget.currency))
    tell_left_out(problems)
    raise typer.Exit(exit_code(worked, was_new=new_run))
