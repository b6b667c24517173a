"""`cso serve`: the daemon in the foreground, for a terminal or a service manager."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from runtime.cli.identity import AcceptOption, NewRunOption, settle_identity
from runtime.cli.options import ConfigOption, DataOption, tell_notices
from runtime.config.loading import DEFAULT_FILE, load_settings
from runtime.config.settings import Settings
from runtime.serve import serve as work


def serve(
    file: ConfigOption = None,
    data: DataOption = None,
    name: Annotated[str | None, typer.Option("--run", help="Run that takes the tasks that name none.")] = None,
    new_run: NewRunOption = False,
    accept: AcceptOption = False,
    host: Annotated[str | None, typer.Option(help="Address that the API listens on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Its port; 0 for any free one.")] = None,
    spool: Annotated[Path | None, typer.Option(help="Folder whose task files are taken up.")] = None,
) -> None:
    """Work on tasks as they come, for weeks if need be, until told to stop.

    Tasks come from `cso submit`, over HTTP and from the spool folder. SIGTERM or Ctrl-C stops: replies that are being
    paid for are waited for, a second one stops at once. SIGHUP reads the configuration anew.
    """
    overrides = {
        "run.data": _text(data),
        "run.name": name,
        "api.host": host,
        "api.port": port,
        "queue.spool": _text(spool),
    }
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE  # that it is gone when it is read anew does not mean that nothing is configured
    settings = settle_identity(_load(file, overrides), new_run=new_run, accept=accept)
    # What is read anew is about the run that was settled on.
    load = partial(_load, file, {**overrides, "run.name": settings.run.name})
    anyio.run(work, settings, os.environ, load)


def _load(file: Path | None, overrides: dict[str, str | int | None]) -> Settings:
    return tell_notices(load_settings(file, os.environ, overrides)).settings


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
