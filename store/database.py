"""The database of a data directory: one writer, readers that never block it, and the lock that keeps it one.

`DIR/cso.sqlite3` is in WAL mode with `synchronous=FULL`: what was committed survives a power cut. Readers work on
snapshots of their own, in this process or another, daemon or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

import aiosqlite
import anyio

from store.errors import NoDatabaseError, StorageError, StorageTroubleError
from store.events import Event
from store.lock import DataLock
from store.migrations import check_version, migrate
from store.transaction import SqlValues
from store.trouble import RETRY_S, Standing, TroubleListener, storage_error
from store.writer import Write, Writer

T = TypeVar("T")
FILE_NAME = "cso.sqlite3"
_READERS = 3
_BUSY_TIMEOUT_S = 30.0
# A read that fails as often although the directory is sound has met a bad spot of the disk.
_READ_TRIES = 30


@dataclass(frozen=True, slots=True)
class View:
    """The state of the database at one moment."""

    connection: aiosqlite.Connection

    async def fetch(self, sql: str, values: SqlValues = ()) -> list[sqlite3.Row]:
        """All rows of one query."""
        return list(await self.connection.execute_fetchall(sql, values))

    async def fetch_one(self, sql: str, values: SqlValues = ()) -> sqlite3.Row | None:
        """The first row of one query, if it has any."""
        rows = await self.fetch(sql, values)
        return rows[0] if rows else None

    async def newest(self) -> int:
        """The seq of the last event that is in it; 0 if there is none."""
        ((newest,),) = await self.fetch("SELECT ifnull(max(seq), 0) FROM events")
        return int(newest)


class Reader:
    """Reads from the database of a data directory, whether or not anyone is writing to it.

    Raises (on entering and reading):
        NoDatabaseError: nothing has been stored there yet.
        StorageError: the data directory cannot be used, or the database is damaged or newer.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._idle: list[aiosqlite.Connection] = []
        self._slots = anyio.Semaphore(_READERS, fast_acquire=True)

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
        """A connection for reading, on which each query sees what is committed when it begins."""
        async with self._slots:
            try:
                connection = self._idle.pop() if self._idle else await self._connect()
                try:
                    yield connection
                finally:
                    if connection.in_transaction:
                        with anyio.CancelScope(shield=True):
                            await connection.rollback()
                    self._idle.append(connection)
            except sqlite3.Error as error:
                wrong = await anyio.to_thread.run_sync(storage_error, error, self.file)
                if wrong is None:
                    raise
                raise wrong from error

    @contextlib.asynccontextmanager
    async def view(self) -> AsyncIterator[View]:
        """One state of the database for several queries; soon to be left, for it holds back the WAL's end."""
        async with self.snapshot() as connection:
            try:
                await connection.execute("BEGIN")
                yield View(connection)
            finally:
                # Whoever was cancelled while it began has it begun all the same.
                with anyio.CancelScope(shield=True):
                    await connection.rollback()

    async def _connect(self) -> aiosqlite.Connection:
        connection = await aiosqlite.connect(
            reading_uri(self.file), uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S
        )
        try:
            ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
            self._check_made(version)
            check_version(version, self.file)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await connection.close()
            raise
        connection.row_factory = sqlite3.Row
        return connection

    def _check_made(self, version: int) -> None:
        if version == 0:  # its file is there, and somebody is making the rest
            raise NoDatabaseError(self.directory)


class Database(Reader):
    """The one writer of a data directory, and readers beside it.

    Args:
        directory: created if it is missing.
        subscriptions: for each kind of event the names of the handlers that it is owed to; those that a
            delivery is not written for at the commit never get the event.
        on_commit: called on the loop with the events of each commit, in order.
        on_trouble: called on the loop when patient writes begin to wait for the disk, with what is wrong, and
            when they go on, with None.

    Raises (on entering):
        DataLockedError: another process writes to the directory.
        StorageError: the directory cannot be used, or the database is damaged or newer.
    """

    def __init__(
        self,
        directory: Path,
        *,
        subscriptions: Mapping[str, Sequence[str]] = MappingProxyType({}),
        on_commit: Callable[[Sequence[Event]], None] = lambda _events: None,
        on_trouble: TroubleListener = lambda _trouble: None,
    ) -> None:
        super().__init__(directory)
        self._subscriptions = subscriptions
        self._on_commit = on_commit
        self._standing = Standing(directory, on_trouble)
        self._lock = DataLock(directory)
        self._writer: Writer | None = None

    async def __aenter__(self) -> Self:
        try:
            await anyio.to_thread.run_sync(self._lock.acquire)
        except OSError as error:
            raise storage_error(error, self.file) or error from error
        try:
            writer = Writer(
                self._open_writing,
                file=self.file,
                standing=self._standing,
                subscriptions=self._subscriptions,
                on_commit=self._on_commit,
            )
            await writer.start()
        except BaseException:
            self._lock.release()
            raise
        self._writer = writer
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__(*exc_info)
        with anyio.CancelScope(shield=True):
            await self._standing.close()
            if self._writer is not None:
                await self._writer.close()
        self._lock.release()

    @property
    def trouble(self) -> StorageTroubleError | None:
        """What keeps patient writes, or work that needs another directory, waiting now, if anything does."""
        return self._standing.trouble

    @property
    def own_trouble(self) -> StorageTroubleError | None:
        """What keeps patient writes waiting now, if anything does."""
        return self._standing.own_trouble

    def check_usable(self) -> None:
        """For those who would not wait for the end of what keeps patient writes waiting.

        Raises:
            StorageTroubleError: something does.
        """
        if trouble := self.own_trouble:
            # Said anew, because it is kept: each raise would lengthen its traceback.
            raise StorageTroubleError(trouble.trouble, trouble.what, trouble.next_step)

    @property
    def patient(self) -> bool:
        """Whether trouble with the disk is waited out; otherwise it is raised."""
        return self._writer is not None and self._writer.patient

    @contextlib.asynccontextmanager
    async def waiting_out_trouble(self, linger: Callable[[], float] = float) -> AsyncIterator[Callable[[], None]]:
        """Let writes that meet trouble with the disk during the block wait for its end, instead of failing with it.

        Gives out a function for who knows that the block is to end, which it may not while they wait: once it is
        called, they wait no longer than at the end of the block.

        Args:
            linger: tells for how many seconds writes still wait at the end of the block; asked then.
        """
        assert self._writer is not None, "the database is used inside `async with`"
        writer, timers = self._writer, list[asyncio.TimerHandle]()

        def end_soon() -> None:
            if not timers:
                timers.append(asyncio.get_running_loop().call_later(linger(), writer.be_patient, False))

        writer.be_patient(True)
        try:
            yield end_soon
        finally:
            end_soon()
            with anyio.CancelScope(shield=True), contextlib.suppress(StorageError):
                await self.flush()
            timers[0].cancel()
            writer.be_patient(False)

    async def until_usable(self) -> None:
        """Wait while patient writes wait; at once where trouble is raised instead."""
        if self.patient:
            await self._standing.until_clear()

    async def was_trouble(self, error: BaseException) -> bool:
        """Find out whether something that just failed with an error may have because the machine is in trouble.

        If so, and trouble is waited out, return only once the data directory can be used again.
        """
        return self.patient and await self._standing.was_trouble(error)

    async def fetch(self, sql: str, values: SqlValues = ()) -> list[sqlite3.Row]:
        """All rows of one query; where trouble is waited out, that which keeps us from reading, too."""
        for _ in range(_READ_TRIES - 1):
            try:
                return await super().fetch(sql, values)
            except StorageTroubleError as error:
                if not self.patient:
                    raise
                if not await self.was_trouble(error):
                    await anyio.sleep(RETRY_S)
        return await super().fetch(sql, values)

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
        future = self.submit(write)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await future  # which raises what the write raised
            raise

    async def flush(self) -> None:
        """Wait until everything that is in line now is committed."""
        await self.submit(lambda _transaction: None)

    def _open_writing(self) -> sqlite3.Connection:
        return open_writing(self.file)


def open_writing(file: Path) -> sqlite3.Connection:
    """A connection for the one who holds the lock, to a database of the newest version.

    Raises:
        NewerDatabaseError: a later release wrote the database.
        sqlite3.Error: it cannot be opened.
    """
    connection = sqlite3.connect(file, isolation_level=None, timeout=_BUSY_TIMEOUT_S, cached_statements=512)
    try:
        connection.row_factory = sqlite3.Row
        # First of all: what a later release wrote is not to be changed in any way.
        check_version(connection.execute("PRAGMA user_version").fetchone()[0], file)
        # Takes effect in a new file only; lets `cso gc` give freed space back without copying the database.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # WAL lets readers go on while we write; FULL makes each commit outlive a power cut.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def reading_uri(file: Path) -> str:
    """The URI that opens a database for reading only, on a read-only disk, too."""
    uri = f"{file.absolute().as_uri()}?mode=ro"
    wal = file.with_name(f"{file.name}-wal")
    # There SQLite cannot make its shared memory, and without a WAL needs none: nobody can be writing.
    with contextlib.suppress(OSError):  # what is wrong shows when the file is opened
        if not wal.exists() and os.statvfs(file.parent).f_flag & os.ST_RDONLY:
            uri += "&immutable=1"
    return uri
