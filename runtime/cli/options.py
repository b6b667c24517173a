"""Options that several commands share, and the settings that they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.output import say
from runtime.config.loading import Loaded, load_settings
from runtime.config.settings import Settings
from runtime.errors import ConfigError

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the database and its files.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
OneRunOption = Annotated[str | None, typer.Option("--run", help="Which run, if there are several.")]


def settings_for(file: Path | None, data: Path | None, *, run: str | None = None) -> Settings:
    """The settings with what the command line says about the data directory and the run.

    Raises:
        ConfigError: some setting is wrong; all that are wrong are told.
    """
    overrides = {"run.data": str(data) if data else None, "run.name": run}
    return load_settings(file, os.environ, overrides).settings


def named_task(task: str) -> str:
    """The id of a task, as it was given.

    Raises:
        ConfigError: it is empty, as an unset variable of a shell is.
    """
    if not task.strip():
        raise ConfigError("the task's id is empty: say which task is meant")
    return task


def tell_notices(loaded: Loaded) -> Loaded:
    """Say what is not as it might be thought of settings that are loaded; hands them on."""
    for notice in loaded.notices:
        say(f"note: {notice}")
    return loaded
