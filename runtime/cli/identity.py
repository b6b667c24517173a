"""What a person decides about a run that its settings, prompts or program do not fit any more."""

from typing import Annotated

import anyio
import typer

from runtime.cli.output import say
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from runtime.runs import accept_changes, free_name

NewRunOption = Annotated[
    bool, typer.Option("--new-run", help="Begin a new run, called NAME-2 where there is a run NAME.")
]
AcceptOption = Annotated[
    bool, typer.Option("--accept-changes", help="Go on although settings, prompts or the program changed.")
]


def settle_identity(settings: Settings, *, new_run: bool, accept: bool) -> Settings:
    """Do what was decided; the settings to work with.

    Raises:
        ConfigError: two things were decided at once.
    """
    if new_run and accept:
        raise ConfigError("--new-run and --accept-changes exclude each other: begin a new run, or go on with the old")
    if new_run:
        name = anyio.run(free_name, settings.run.data, settings.run.name)
        say(f"a new run: {name} (go on with it, and give it tasks, by --run {name})")
        return settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})
    if accept:
        for key in anyio.run(accept_changes, settings):
            say(f"accepted from now on: {key}")
    return settings
