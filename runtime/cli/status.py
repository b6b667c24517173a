"""`cso status`: a run in numbers, read from the store beside whoever is writing to it."""

import os
from pathlib import Path
from typing import Annotated

import anyio
import typer

from runtime.cli.output import write_data, write_json
from runtime.cli.report import summary_json, summary_text
from runtime.cli.runs import chosen_runs
from runtime.config.loading import load_settings
from store.database import Reader
from store.summary import Summary, summarise


def status(
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    name: Annotated[str | None, typer.Option("--run", help="One run; all of them if left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how far each run is, what it cost, and what was set aside."""
    # A folder that is named may be of another configuration than the one at hand, so its money has no label.
    folder, currency = (data, "") if data else _configured(file)
    summaries = anyio.run(_summaries, folder, name)
    if json:
        write_json({"runs": [summary_json(summary, dataset=None) for summary in summaries]})
        return
    for summary in summaries:
        text = summary_text(summary, dataset=None, log=None, currency=currency)
        write_data(f"run {summary.run} in {folder}\n{text}\n")


def _configured(file: Path | None) -> tuple[Path, str]:
    settings = load_settings(file, os.environ, {}).settings
    return settings.run.data, settings.budget.currency


async def _summaries(folder: Path, name: str | None) -> list[Summary]:
    async with Reader(folder) as reader:
        return [await summarise(reader, run) for run in await chosen_runs(reader, name)]
