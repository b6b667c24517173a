"""The database of a data directory: one writer, readers that never block it, and the lock that keeps it one.

`DIR/cso.sqlite3` is in WAL mode with `synchronous=FULL`: what was committed survives a power cut. Readers work on
snapshots of their own, in this process or another, daemon or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

import aiosqlite
import anyio

from store.errors import NoDatabaseError
from store.events import Event
from store.lock import DataLock
from store.migrations import migrate
from store.transaction import SqlValues
from store.writer import Write, Writer

T = TypeVar("T")
FILE_NAME = "cso.sqlite3"
_READERS = 3
_BUSY_TIMEOUT_S = 30.0


class Reader:
    """Reads from the database of a data directory, whether or not anyone is writing to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._idle: list[aiosqlite.Connection] = []
        self._slots = anyio.Semaphore(_READERS)

    @property
    def file(self) -> Path:
        """The database's file."""
        return self.directory / FILE_NAME

    async def __aenter__(self) -> Self:
        if not self.file.is_file():
            raise NoDatabaseError(self.directory)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with anyio.CancelScope(shield=True):
            while self._idle:
                await self._idle.pop().close()

    async def fetch(self, sql: str, values: SqlValues = ()) -> list[sqlite3.Row]:
        """All rows of one query, as they were committed when it began."""
        async with self.snapshot() as connection:
            return list(await connection.execute_fetchall(sql, values))

    async def fetch_one(self, sql: str, values: SqlValues = ()) -> sqlite3.Row | None:
        """The first row of one query, if it has any."""
        rows = await self.fetch(sql, values)
        return rows[0] if rows else None

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[aiosqlite.Connection]:
        """A connection for reading. Begin a transaction on it to see one state across several queries."""
        async with self._slots:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                yield connection
            finally:
                with anyio.CancelScope(shield=True):
                    if connection.in_transaction:
                        await connection.rollback()
                self._idle.append(connection)

    async def _connect(self) -> aiosqlite.Connection:
        connection = await aiosqlite.connect(
            f"{self.file.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            timeout=_BUSY_TIMEOUT_S,
        )
        connection.row_factory = sqlite3.Row
        return connection


class Database(Reader):
    """The one writer of a data directory, and readers beside it.

    Args:
        directory: created if it is missing.
        subscriptions: for each kind of event the names of the handlers that it is owed to; those that a
            delivery is not written for at the commit never get the event.
        on_commit: called on the loop with the events of each commit, in order.

    Raises (on entering):
        DataLockedError: another process writes to the directory.
        NewerDatabaseError: a later release wrote the database.
    """

    def __init__(
        self,
        directory: Path,
        *,
        subscriptions: Mapping[str, Sequence[str]] = MappingProxyType({}),
        on_commit: Callable[[Sequence[Event]], None] = lambda _events: None,
    ) -> None:
        super().__init__(directory)
        self._subscriptions = subscriptions
        self._on_commit = on_commit
        self._lock = DataLock(directory)
        self._writer: Writer | None = None

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(self._lock.acquire)
        try:
            writer = Writer(self._open_writing, subscriptions=self._subscriptions, on_commit=self._on_commit)
            await writer.start()
        except BaseException:
            self._lock.release()
            raise
        self._writer = writer
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__(*exc_info)
        with anyio.CancelScope(shield=True):
            if self._writer is not None:
                await self._writer.close()
        self._lock.release()

    def submit(self, write: Write[T]) -> asyncio.Future[T]:
        """Put a write in line: it will be committed whether or not anyone waits for the future."""
        assert self._writer is not None, "the database is used inside `async with`"
        return self._writer.submit(write)

    async def write(self, write: Write[T]) -> T:
        """Run a write and return its result once it is committed.

        A caller cancelled meanwhile leaves at once; its write is committed all the same.
        """
        return await self.submit(write)

    async def save(self, write: Write[T]) -> T:
        """As `write`, but a caller cancelled meanwhile leaves only once the commit is done."""
        with anyio.CancelScope(shield=True):
            result = await self.write(write)
        return result

    def _open_writing(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, isolation_level=None, timeout=_BUSY_TIMEOUT_S, cached_statements=512)
        connection.row_factory = sqlite3.Row
        # WAL lets readers go on while we write; FULL makes each commit outlive a power cut.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
        return connection
