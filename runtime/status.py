"""The state of the runs as one JSON object, the same for `cso status --json` and the API."""

from __future__ import annotations

from runtime.control import UnknownNameError
from store.database import Reader
from store.jsontypes import JsonValue
from store.runs import list_runs
from store.summary import summarise


async def status_json(reader: Reader, name: str | None) -> dict[str, JsonValue]:
    """The run of that name, or all of them, in numbers.

    Raises:
        UnknownNameError: there is no such run.
    """
    runs = [run for run in await list_runs(reader) if name is None or run.name == name]
    if name is not None and not runs:
        raise UnknownNameError(f"there is no run {name!r}")
    return {"runs": [{**(await summarise(reader, run)).as_json(), "dataset": None} for run in runs]}
