"""Runs: what makes a body of evidence one, and comparable within itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import orjson

from store.database import Reader
from store.events import RunChanged, RunStarted
from store.jsontypes import JsonValue
from store.transaction import Transaction, now_us

_BY_NAME = "SELECT * FROM runs WHERE name = ?"
_ALL = "SELECT * FROM runs ORDER BY id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run and the settings that it fixes.

    `identity` maps dotted setting names to values; `digest` is taken over it. A `paused` run is left alone.
    """

    id: int
    name: str
    digest: str
    identity: dict[str, JsonValue]
    created: int  # microseconds since 1970, UTC
    paused: bool = False


def create_run(transaction: Transaction, *, name: str, digest: str, identity: dict[str, JsonValue]) -> Run:
    """Store a new run and tell of it."""
    created = now_us()
    identifier = transaction.insert(
        "INSERT INTO runs (name, digest, identity, created) VALUES (?, ?, ?, ?)",
        (name, digest, orjson.dumps(identity), created),
    )
    transaction.publish(RunStarted(run=identifier, name=name, digest=digest))
    return Run(id=identifier, name=name, digest=digest, identity=identity, created=created)


def change_run(transaction: Transaction, run: Run, *, digest: str, identity: dict[str, JsonValue]) -> None:
    """Go on under another identity, and keep in the log what changed: pairs name the digest they were made under."""
    transaction.execute(
        "UPDATE runs SET digest = ?, identity = ? WHERE id = ?", (digest, orjson.dumps(identity), run.id)
    )
    changes = {key: list(values) for key, values in differences(run.identity, identity).items()}
    transaction.publish(RunChanged(run=run.id, before=run.digest, digest=digest, changes=changes))


def differences(
    before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]
) -> dict[str, tuple[JsonValue, JsonValue]]:
    """The keys in which two identities differ, in order, with both values; None for a key that one does not have."""
    keys = sorted(before.keys() | after.keys())
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def set_paused(transaction: Transaction, run: int, *, paused: bool) -> None:
    """Leave a run alone from now on, or take it up again."""
    transaction.execute("UPDATE runs SET paused = ? WHERE id = ?", (paused, run))


def has_evidence(transaction: Transaction, run: int) -> bool:
    """Whether a model has ever replied in a run: rollouts without a reply are failures of ours, and no evidence."""
    query = """
        SELECT 1 FROM tasks k JOIN trajectories t ON t.task = k.id JOIN calls c ON c.trajectory = t.id
        WHERE k.run = ? LIMIT 1
    """
    return transaction.execute(query, (run,)).fetchone() is not None


def read_run(transaction: Transaction, name: str) -> Run | None:
    """As find_run, as of this transaction."""
    row = transaction.execute(_BY_NAME, (name,)).fetchone()
    return _from_row(row) if row else None


def read_runs(transaction: Transaction) -> list[Run]:
    """As list_runs, as of this transaction."""
    return [_from_row(row) for row in transaction.execute(_ALL)]


async def find_run(reader: Reader, name: str) -> Run | None:
    """The run of that name, if there is one."""
    row = await reader.fetch_one(_BY_NAME, (name,))
    return _from_row(row) if row else None


async def list_runs(reader: Reader) -> list[Run]:
    """All runs, oldest first."""
    return [_from_row(row) for row in await reader.fetch(_ALL)]


def _from_row(row: sqlite3.Row) -> Run:
    return Run(
        id=row["id"],
        name=row["name"],
        digest=row["digest"],
        identity=cast("dict[str, JsonValue]", orjson.loads(row["identity"])),
        created=row["created"],
        paused=bool(row["paused"]),
    )
