"""Finding the runs that a command is about."""

from __future__ import annotations

from runtime.errors import ConfigError
from store.database import Reader
from store.runs import Run, list_runs


async def chosen_runs(reader: Reader, name: str | None) -> list[Run]:
    """The run of that name, or all of them.

    Raises:
        ConfigError: there is no such run; the message names those there are.
    """
    runs = await list_runs(reader)
    chosen = [run for run in runs if name is None or run.name == name]
    if not chosen:
        known = ", ".join(run.name for run in runs) or "none"
        raise ConfigError(f"{reader.directory} has no run named {name!r}; it has: {known}")
    return chosen


async def one_run(reader: Reader, name: str | None) -> Run:
    """The run of that name, or the only one there is.

    Raises:
        ConfigError: there is no such run, or there are several to choose from.
    """
    chosen = await chosen_runs(reader, name)
    if len(chosen) > 1:
        raise ConfigError(
            f"{reader.directory} has several runs, choose one with --run: {', '.join(run.name for run in chosen)}"
        )
    return chosen[0]
