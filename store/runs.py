"""Runs: what makes a body of evidence one, and comparable within itself."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import cast

import orjson

from store.database import Reader
from store.events import RunStarted
from store.jsontypes import JsonValue
from store.transaction import Transaction, now_us


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


def set_paused(transaction: Transaction, run: int, *, paused: bool) -> None:
    """Leave a run alone from now on, or take it up again."""
    transaction.execute("UPDATE runs SET paused = ? WHERE id = ?", (paused, run))


async def find_run(reader: Reader, name: str) -> Run | None:
    """The run of that name, if there is one."""
    row = await reader.fetch_one("SELECT * FROM runs WHERE name = ?", (name,))
    return _from_row(row) if row else None


async def list_runs(reader: Reader) -> list[Run]:
    """All runs, oldest first."""
    return [_from_row(row) for row in await reader.fetch("SELECT * FROM runs ORDER BY id")]


def _from_row(row: sqlite3.Row) -> Run:
    return Run(
        id=row["id"],
        name=row["name"],
        digest=row["digest"],
        identity=cast("dict[str, JsonValue]", orjson.loads(row["identity"])),
        created=row["created"],
        paused=bool(row["paused"]),
    )
