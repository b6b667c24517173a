"""`cso config`: the configuration in effect, as TOML that says behind each value where it came from."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.options import tell_notices
from runtime.cli.output import say, write_data, write_json
from runtime.config.fields import entries_of, leaves
from runtime.config.identity import digest, identity
from runtime.config.loading import Loaded, load_settings
from runtime.config.settings import Settings
from runtime.config.values import as_toml, flatten
from store.jsontypes import JsonValue

# Tables of sections that the user names; empty ones cannot be written behind another section.
_TABLES = frozenset(name for name, field in leaves(Settings) if entries_of(field) is not None)


def config(
    file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file; ./config.toml where there is one.")
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only values that differ from the default.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the configuration in effect and where each value came from.

    Later ones win: defaults, the file, CSO_... environment variables, options of a command. LLM_URL and the other
    variables of the published scripts are fallbacks: for roles of which none of these says where they are served.
    """
    loaded = load_settings(file, os.environ, {})
    values = flatten(loaded.settings)
    if changed:
        defaults = flatten(Settings())
        values = {key: value for key, value in values.items() if key not in defaults or defaults[key] != value}
    if json:
        write_json(_as_object(loaded, values))
    elif values:
        write_data("\n".join(_as_lines(loaded, values)))
    else:
        say("Every setting has its default value.")
    tell_notices(loaded)


def _as_object(loaded: Loaded, values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {
        "file": str(loaded.file) if loaded.file else None,
        "digest": digest(identity(loaded.settings)),
        "settings": {key: {"value": value, "origin": str(loaded.origins[key])} for key, value in values.items()},
    }


def _as_lines(loaded: Loaded, values: dict[str, JsonValue]) -> Iterator[str]:
    """Yield TOML with aligned comments, a blank line before each section but the first."""
    rows = [
        (*_split(key), as_toml(value), loaded.origins[key]) for key, value in values.items() if key not in _TABLES
    ]
    width = max(len(f"{name} = {value}") for _, name, value, _ in rows)
    current = ""
    for section, name, value, origin in rows:
        if section != current:
            if current:
                yield ""
            yield f"[{section}]"
            current = section
        yield f"{f'{name} = {value}':<{width}}  # {origin}"


def _split(key: str) -> tuple[str, str]:
    """Split a dotted key into its section and what stands in it; entries of a table keep the table's name."""
    setting = next(name for name, _ in leaves(Settings) if key == name or key.startswith(f"{name}."))
    if setting in _TABLES:
        own, _, name = key.removeprefix(f"{setting}.").rpartition(".")
        return f"{setting}.{as_toml(own)}", name
    section = setting.rpartition(".")[0]
    return section, key.removeprefix(f"{section}.")
