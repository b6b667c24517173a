"""`cso status`: runs in numbers, read from the store beside whoever writes to it, and what that daemon is doing."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import anyio
import typer

from runtime.cli.live import daemon_rows, look_at_daemon
from runtime.cli.output import write_data, write_json
from runtime.cli.report import summary_json, summary_text, table
from runtime.cli.runs import chosen_runs
from runtime.config.loading import load_settings
from runtime.config.settings import Api
from store.database import Reader
from store.jsontypes import JsonValue
from store.summary import Summary, summarise


def status(
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    name: Annotated[str | None, typer.Option("--run", help="One run; all of them if left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how far each run is, what it cost, and what was set aside.

    Where a daemon is at work, also what it is doing and what limits it; without one, all the rest is there.
    """
    # A folder that is named may be of another configuration than the one at hand, so its money has no label.
    folder, api, currency = (data, Api(), "") if data and file is None else _configured(file, data)
    summaries, seen = anyio.run(_look, folder, api, name)
    if json:
        write_json({"runs": [summary_json(summary, dataset=None) for summary in summaries], "daemon": seen})
        return
    write_data(table(list(daemon_rows(seen))))
    for summary in summaries:
        more = list(_left_alone(summary, seen))
        text = summary_text(summary, dataset=None, log=None, more=more, currency=currency)
        write_data(f"\nrun {summary.run} in {folder}\n{text}")


def _left_alone(summary: Summary, seen: Mapping[str, JsonValue] | None) -> Iterator[tuple[str, str]]:
    """A row that says why nothing of a run moves, where that is because of the daemon's settings."""
    if not summary.owed or summary.paused or summary.budget_spent or seen is None or "held" not in seen:
        return
    served, held = seen["serving"], seen["held"]
    assert isinstance(served, list)
    assert isinstance(held, list)
    if summary.run in [*served, *held]:
        return
    if not seen.get("every_run"):
        yield "left alone", "the process at work is a `cso run` of another run; `cso serve` works on all"
        return
    yield (
        "left alone",
        "the daemon's settings are not those that it was begun with: to go on with it, serve with those,"
        f" or with `--run {summary.run} --accept-changes`",
    )


def _configured(file: Path | None, data: Path | None) -> tuple[Path, Api, str]:
    settings = load_settings(file, os.environ, {"run.data": str(data) if data else None}).settings
    return settings.run.data, settings.api, settings.budget.currency


async def _look(folder: Path, api: Api, name: str | None) -> tuple[list[Summary], dict[str, JsonValue] | None]:
    async with Reader(folder) as reader:
        summaries = [await summarise(reader, run) for run in await chosen_runs(reader, name)]
    return summaries, await look_at_daemon(folder, api)
