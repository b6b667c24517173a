"""The runs of a data directory: beginning one, going on with it, and refusing to mix evidence that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import orjson

from runtime.config.identity import digest, identity
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from store.database import Database, Reader
from store.errors import NoDatabaseError
from store.events import Resumed
from store.jsontypes import JsonValue
from store.resumption import count_open_work
from store.runs import Run, change_run, create_run, differences, find_run, has_evidence, list_runs, read_run
from store.transaction import Transaction

_PROGRAM = "program."
_SHOWN = 60


class RunChangedError(ConfigError):
    """Raised when a run is to go on with settings, prompts or a program that its evidence was not made with.

    `changes` holds by dotted key the value until now and the one that was asked for.
    """

    def __init__(self, name: str, changes: Mapping[str, tuple[JsonValue, JsonValue]]) -> None:
        self.name = name
        self.changes = changes
        lines = [f"  {key}: {_shown(was)} → {_shown(now)}" for key, (was, now) in sorted(changes.items())]
        advice = [
            "--new-run with `cso run` or `cso serve` begins a new run with the new ones",
            "--accept-changes goes on with it; each pair keeps the digest that it was made under",
        ]
        if any(not key.startswith(_PROGRAM) for key in changes):
            advice.insert(0, "set them back in the configuration (`cso config` shows where each value comes from)")
        super().__init__(
            f"run {name!r} was begun with other {_sorts(changes)}:\n" + "\n".join(lines) + "\n"
            "Evidence made with both is not comparable. Choose one:\n" + "\n".join(f"  - {line}" for line in advice)
        )


async def open_run(database: Database, settings: Settings, name: str) -> Run:
    """The run of that name, begun now with these settings if there is none, or no evidence in it.

    Raises:
        RunChangedError: it was begun with other settings, or by another program.
    """
    fixed = identity(settings)
    wanted = digest(fixed)

    def open_or_begin(transaction: Transaction) -> Run:
        # Looked for again, for somebody else may have begun it meanwhile.
        run = read_run(transaction, name)
        if run is None:
            return create_run(transaction, name=name, digest=wanted, identity=fixed)
        if run.digest == wanted or has_evidence(transaction, run.id):
            return run
        change_run(transaction, run, digest=wanted, identity=fixed)
        return replace(run, digest=wanted, identity=fixed)

    found = await find_run(database, name)
    if found is None or found.digest != wanted:
        found = await database.write(open_or_begin)
    if found.digest != wanted:
        raise RunChangedError(found.name, differences(found.identity, fixed))
    return found


async def accept_changes(settings: Settings) -> Mapping[str, tuple[JsonValue, JsonValue]]:
    """Let the run that the settings name go on under them; what changed, by dotted key.

    A run that has not been begun, or has this identity, is left as it is.

    Raises:
        DataLockedError: someone works on the data directory, under the old identity.
    """
    fixed = identity(settings)
    async with Database(settings.run.data) as database:
        found = await find_run(database, settings.run.name)
        if found is None or found.digest == digest(fixed):
            return {}
        await database.write(partial(change_run, run=found, digest=digest(fixed), identity=fixed))
        return differences(found.identity, fixed)


async def free_name(folder: Path, name: str) -> str:
    """The name itself if no run of the data directory has it, else the first free one of NAME-2, NAME-3, …"""
    try:
        async with Reader(folder) as reader:
            taken = {run.name for run in await list_runs(reader)}
    except NoDatabaseError:
        return name
    names = (f"{name}-{number}" for number in count(2))
    return name if name not in taken else next(one for one in names if one not in taken)


def _sorts(changes: Mapping[str, object]) -> str:
    program = [key.startswith(_PROGRAM) for key in changes]
    return "program files" if all(program) else "settings and program files" if any(program) else "settings"


def _shown(value: JsonValue) -> str:
    """A value as a person can compare it: digests and long texts cut, what was not there named."""
    if value is None:
        return "not set"
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"{text[:_SHOWN]}…" if len(text) > _SHOWN else text or '""'


async def tell_of_resumption(database: Database, run: Run) -> Resumed | None:
    """Put into the log what an earlier process left open in a run, if it had begun and left anything."""
    left = await count_open_work(database, run.id)
    if not (left.deliveries and left.begun):
        return None
    resumed = Resumed(
        run=run.id, deliveries=left.deliveries, trajectories=left.trajectories, steps=left.steps, calls=left.calls
    )
    await database.write(lambda transaction: transaction.publish(resumed))
    return resumed
