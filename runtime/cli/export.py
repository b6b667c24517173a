"""`cso export`: preference pairs in a trainer's format, read from the store beside whoever is writing to it."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import anyio
import typer

from runtime.cli.output import say, write_data, write_json
from runtime.cli.runs import one_run
from runtime.config.loading import load_settings
from runtime.errors import ConfigError
from store.database import Reader
from store.export import has_pair, load_pairs
from store.formats import llamafactory
from store.runs import Run


def export(
    out: Annotated[Path, typer.Option(help="Folder to write to; made if it is missing.")],
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    name: Annotated[str | None, typer.Option("--run", help="Which run, if there are several.")] = None,
    form: Annotated[Literal["llamafactory"], typer.Option("--format", help="The trainer's format.")] = "llamafactory",
    force: Annotated[bool, typer.Option("--force", help="Replace the pairs of another run.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the verified preference pairs of a run for a trainer.

    What an earlier export of the same run wrote there is replaced, that of another run only if --force is given.
    """
    folder = data or load_settings(file, os.environ, {}).settings.run.data
    pairs = anyio.run(partial(export_pairs, folder, name, out, force=force))
    dataset = out / llamafactory.FILE_NAME
    if json:
        write_json(
            {"format": form, "pairs": pairs, "dataset": str(dataset), "info": str(out / llamafactory.INFO_NAME)}
        )
    else:
        write_data(str(dataset))
        say(f"{pairs} pairs; data set {llamafactory.DATASET} is described in {out / llamafactory.INFO_NAME}")


async def export_pairs(folder: Path, name: str | None, out: Path, *, force: bool) -> int:
    """Write the pairs of a run in LLaMA-Factory's form; how many they are.

    Args:
        force: replace those of another run.

    Raises:
        ConfigError: there is no such run, or the folder cannot be written to, or holds the pairs of another run.
    """
    async with Reader(folder) as reader:
        run = await one_run(reader, name)
        try:
            if not force:
                await _refuse_to_replace(reader, run, out)
            return await llamafactory.write_pairs(load_pairs(reader, run), out)
        except OSError as error:
            raise ConfigError(f"--out {out} cannot be written to: {error.strerror}") from error


async def _refuse_to_replace(reader: Reader, run: Run, out: Path) -> None:
    """Raise ConfigError where a folder holds pairs that are not of this run."""
    found = await anyio.to_thread.run_sync(llamafactory.exported, out)
    if found is None:
        return
    task, step, digest = found.get("task"), found.get("step"), found.get("digest")
    if found.get("run") == run.name and isinstance(task, str) and isinstance(step, int) and isinstance(digest, str):
        if await has_pair(reader, run, task=task, step=step, digest=digest):
            return
        whose = f"pairs of another run {run.name}, of other data"
    else:
        whose = f"pairs of run {found['run']}" if "run" in found else "something else"
    raise ConfigError(
        f"{out / llamafactory.FILE_NAME} holds {whose}: name another folder with --out, or replace it with --force"
    )
