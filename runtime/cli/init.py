"""`cso init`: writes the documented default configuration for the user to edit."""

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.output import say, write_json
from runtime.config.loading import DEFAULT_FILE
from runtime.config.rendering import render_default_config
from runtime.errors import ConfigError


def init(
    path: Annotated[
        Path, typer.Argument(help="File to write, or the folder to write config.toml in.")
    ] = DEFAULT_FILE,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a commented config.toml with every setting's default.

    An existing file is left alone unless --force is given.
    """
    if path.is_dir():
        path /= DEFAULT_FILE
    _write(path, force=force)
    if json:
        write_json({"written": str(path)})
    option = "" if path == DEFAULT_FILE else f" --config {path}"
    say(f"Wrote {path}. Next: set base_url and model of [models.policy], [models.expert] and [models.prm], then")
    say(f"see what is in effect with `cso config --changed{option}`, and call it with `cso doctor{option}`.")


def _write(path: Path, *, force: bool) -> None:
    """Write the default configuration; raises ConfigError when the file is there already or cannot be made."""
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(render_default_config())
    except FileExistsError:
        raise ConfigError(f"{path} exists already; --force overwrites it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
