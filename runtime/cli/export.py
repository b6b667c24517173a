"""`cso export`: preference pairs in a trainer's format, read from the store beside whoever is writing to it."""

import os
from pathlib import Path
from typing import Annotated, Literal

import anyio
import typer

from runtime.cli.output import say, write_data, write_json
from runtime.cli.runs import one_run
from runtime.config.loading import load_settings
from runtime.errors import ConfigError
from store.database import Reader
from store.export import load_pairs
from store.formats import llamafactory


def export(
    out: Annotated[Path, typer.Option(help="Folder to write to; made if it is missing.")],
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    name: Annotated[str | None, typer.Option("--run", help="Which run, if there are several.")] = None,
    form: Annotated[Literal["llamafactory"], typer.Option("--format", help="The trainer's format.")] = "llamafactory",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the verified preference pairs of a run for a trainer."""
    folder = data or load_settings(file, os.environ, {}).settings.run.data
    pairs = anyio.run(export_pairs, folder, name, out)
    dataset = out / llamafactory.FILE_NAME
    if json:
        write_json(
            {"format": form, "pairs": pairs, "dataset": str(dataset), "info": str(out / llamafactory.INFO_NAME)}
        )
    else:
        write_data(str(dataset))
        say(f"{pairs} pairs; data set {llamafactory.DATASET} is described in {out / llamafactory.INFO_NAME}")


async def export_pairs(folder: Path, name: str | None, out: Path) -> int:
    """Write the pairs of a run in LLaMA-Factory's form; how many they are.

    Raises:
        ConfigError: there is no such run, or the folder cannot be written to.
    """
    async with Reader(folder) as reader:
        run = await one_run(reader, name)
        try:
            return await llamafactory.write_pairs(load_pairs(reader, run), out)
        except OSError as error:
            raise ConfigError(f"--out {out} cannot be written to: {error.strerror}") from error
