"""What a write sees: the writer's connection, the blobs, and the outbox.

Publishing puts an event and what is owed to its handlers into the same transaction as the rows it tells of, so
neither exists without the other (transactional outbox).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from store.blobs import BlobWriter
from store.events import Event

SqlValue: TypeAlias = "None | int | float | str | bytes"
SqlValues: TypeAlias = Sequence[SqlValue] | Mapping[str, SqlValue]


class Transaction:
    """One write on the writer's thread. It must depend on nothing but the database: it may be run again."""

    def __init__(
        self, connection: sqlite3.Connection, blobs: BlobWriter, subscriptions: Mapping[str, Sequence[str]]
    ) -> None:
        self._connection = connection
        self._subscriptions = subscriptions
        self.blobs = blobs
        self.published: list[Event] = []

    def execute(self, sql: str, values: SqlValues = ()) -> sqlite3.Cursor:
        """Run one statement with bound values."""
        return self._connection.execute(sql, values)

    def execute_many(self, sql: str, rows: Iterable[Sequence[SqlValue]]) -> None:
        """Run one statement for each row of values."""
        self._connection.executemany(sql, rows)

    def insert(self, sql: str, values: Sequence[SqlValue]) -> int:
        """Run one INSERT and return the id of its row."""
        identifier = self._connection.execute(sql, values).lastrowid
        assert identifier is not None  # an INSERT that did not raise has given one
        return identifier

    def publish(self, event: Event) -> Event:
        """Commit an event with this write and owe it to every handler that takes its kind.

        Returns:
            The event with its place in the log, under which it reaches the bus once the write is committed.
        """
        now = now_us()
        seq = self.insert(
            "INSERT INTO events (time, kind, run, task, body) VALUES (?, ?, ?, ?, ?)",
            (now, event.kind, event.run, event.task, event.body()),
        )
        priority = 0
        for handler in self._subscriptions.get(event.kind, ()):
            row = self._connection.execute(
                "INSERT INTO deliveries (handler, event, run, task, priority)"
                " VALUES (?, ?, ?, ?, ifnull((SELECT priority FROM tasks WHERE id = ?), 0)) RETURNING priority",
                (handler, seq, event.run, event.task, event.task),
            ).fetchone()
            priority = int(row[0])
        committed = event.stamped(seq=seq, time=now, priority=priority)
        self.published.append(committed)
        return committed


def now_us() -> int:
    """The present in microseconds since 1970, UTC."""
    return time.time_ns() // 1000
