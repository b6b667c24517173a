"""Numbered, forward-only steps of the database's form: one SQL file each, applied in order and once.

`PRAGMA user_version` holds the number of the last step applied, in the same transaction as the step, so a
crash between two steps leaves a database that the next start carries on with.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from store.errors import NewerDatabaseError


def migration_steps() -> tuple[str, ...]:
    """The SQL text of every step; position 0 brings an empty database to version 1."""
    folder = resources.files(__name__)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def check_version(version: int, file: Path | None = None) -> None:
    """Refuse a database, which lies in `file`, of a version that this program does not know.

    Raises:
        NewerDatabaseError: a later release of the program has written it.
    """
    known = len(migration_steps())
    if version > known:
        raise NewerDatabaseError(found=version, known=known, file=file)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest version.

    Raises:
        NewerDatabaseError: a later release of the program has written this database.
    """
    steps = migration_steps()
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    check_version(version)
    for number, script in enumerate(steps[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """Split where SQLite itself says that a statement is complete, not at every semicolon."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
