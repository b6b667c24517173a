"""`cso gc`: forget what nothing needs any more, and give its space back."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.output import write_data, write_json
from runtime.config.loading import load_settings
from store.health import readable_size
from store.retention import Collected, collect_garbage


def gc(
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and its files.")] = None,
    workspaces: Annotated[
        bool,
        typer.Option("--workspaces-of-finished-runs", help="Also the files that steps left, where nothing is owed."),
    ] = False,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Write the database anew; needs as much room again for a while.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be forgotten.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Drop texts and files that no record refers to, and give their space back.

    Nobody may work on the folder meanwhile, except with --dry-run. Pairs and exports keep all that they need.
    """
    folder = data or load_settings(file, os.environ, {}).settings.run.data
    collected = collect_garbage(folder, finished_workspaces=workspaces, vacuum=vacuum, dry_run=dry_run)
    if json:
        freed = collected.size_before - collected.size_after
        write_json({"data": str(folder), "dry_run": dry_run, **asdict(collected), "freed": freed})
    else:
        write_data(_text(collected, dry_run=dry_run))


def _text(collected: Collected, *, dry_run: bool) -> str:
    verb = "would drop" if dry_run else "dropped"
    lines = [f"{verb} {collected.blobs:,} texts and files, {readable_size(collected.blob_bytes)} stored"]
    if collected.workspaces:
        lines.append(f"{verb} the files of {collected.workspaces:,} steps")
    if not dry_run:
        sizes = collected.size_before, collected.size_after, max(0, collected.size_before - collected.size_after)
        before, after, freed = (readable_size(size) for size in sizes)
        lines.append(f"database: {before} before, {after} now, {freed} given back")
    return "\n".join(lines)
