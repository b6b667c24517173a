"""The one writer: a thread that runs writes in order and commits them in groups.

A write is a function of a `Transaction`. All writes that wait when the thread comes round share one commit, which
hides the disk's latency from everyone but the first. While the loop is busy they are gathered for a moment before the
thread hears of them, since small groups would only take the interpreter from it more often. If one of a group fails,
the group is rolled back and each is run in a transaction of its own, so that it fails alone. A caller that was
cancelled does not take its write along: a result already earned is saved.

A group that meets trouble with the disk is no group of bad writes: while the writer is patient it stays at the head
of the line, rolled back whole, and is tried again until the trouble clears. Callers wait, which bounds the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, TypeVarTuple

from store.blobs import BlobWriter
from store.errors import DatabaseGoneError, StorageError, StorageTroubleError, StoreClosedError
from store.events import Event
from store.transaction import Transaction
from store.trouble import RETRY_S, Standing, storage_error

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Write: TypeAlias = Callable[[Transaction], T]
CommitListener: TypeAlias = Callable[[Sequence[Event]], None]

# Groups that get much longer only delay the first of them: the commit's cost is long since spread thin.
_GROUP = 512
# Results are given out in rounds of the loop of about this many seconds, since what is done with one takes from some
# microseconds to some milliseconds: a burst must not hold up the loop, nor its rounds cost more than the results.
_ROUND_S = 0.005
_MOST_AT_ONCE = 256
# Writes wait for more of them while rounds of the loop take longer than this many seconds, at the most for so many.
_IDLE_ROUND_S = 0.0005
_GATHER_S = 0.005
_SOURCE = "writer"


@dataclass(slots=True)
class _Pending(Generic[T]):
    """A write and the one who waits for it; then its result or its error."""

    write: Write[T]
    waiter: asyncio.Future[T]
    result: T | None = None
    error: BaseException | None = None


class Writer:
    """Owns the writing connection and its thread; made and used on one event loop.

    Args:
        connect: opens the database that lies in `file`.
        standing: hears of trouble and of its end.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        file: Path,
        standing: Standing,
        subscriptions: Mapping[str, Sequence[str]],
        on_commit: CommitListener,
    ) -> None:
        self._connect = connect
        self._file = file
        self._standing = standing
        self._subscriptions = subscriptions
        self._on_commit = on_commit
        # Any: writes of every result type wait in one line.
        self._gathered: list[_Pending[Any]] = []
        self._queue: queue.SimpleQueue[list[_Pending[Any]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed = False
        self._patient = False
        self._troubled = False
        self._hurried = threading.Event()
        self._final: StorageError | None = None
        self._in_place: tuple[tuple[int, int], ...] = ()
        self._finished: deque[_Pending[Any]] = deque()
        self._at_once = 1
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    async def start(self) -> None:
        """Open the database and bring it up to date; raises what that raises."""
        self._thread.start()
        await self._opened

    @property
    def patient(self) -> bool:
        """Whether writes that meet trouble wait for its end; otherwise they fail with it."""
        return self._patient

    def be_patient(self, patient: bool) -> None:
        """Let writes that meet trouble wait from now on; or try once more and then let them fail."""
        self._patient = patient
        if patient:
            self._hurried.clear()
        else:
            self._hurried.set()

    def submit(self, write: Write[T]) -> asyncio.Future[T]:
        """Put a write in line; it will happen whether or not anyone awaits the future.

        Raises:
            StoreClosedError: the writer has been closed.
        """
        if self._closed:
            raise StoreClosedError("the store is closed: nothing more can be written")
        pending = _Pending(write, self._loop.create_future())
        if not self._gathered:
            now = self._loop.time()
            self._loop.call_soon(self._gather, now, now + _GATHER_S)
        self._gathered.append(pending)
        return pending.waiter

    def _gather(self, before: float, until: float) -> None:
        """Pass on what is gathered if the loop had nothing else to do since `before`, in the round that ends now."""
        now = self._loop.time()
        if now - before > _IDLE_ROUND_S and now < until:
            self._loop.call_soon(self._gather, now, until)
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    async def close(self) -> None:
        """Commit what is in line, then close the connection. Bounded by the disk alone."""
        if not self._closed:
            self._closed = True
            self._pass_on()
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            connection = self._connect()
            self._in_place = self._identities()
        except BaseException as error:  # noqa: BLE001 - the thread's border: handed to whoever awaits start()
            self._loop.call_soon_threadsafe(self._opened.set_exception, storage_error(error, self._file) or error)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        blobs = BlobWriter(connection)
        with contextlib.closing(connection):
            open_for_more = True
            while open_for_more:
                group, open_for_more = self._next_group()
                if group:
                    self._commit(connection, blobs, group)

    def _next_group(self) -> tuple[list[_Pending[Any]], bool]:
        """Wait for writes, then take whatever else is in line; False once the writer is to close."""
        group: list[_Pending[Any]] = []
        gathered = self._queue.get()
        while gathered is not None:
            group += gathered
            if len(group) >= _GROUP:
                return group, True
            try:
                gathered = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, connection: sqlite3.Connection, blobs: BlobWriter, group: list[_Pending[Any]]) -> None:
        events, error = self._attempt(connection, blobs, group)
        while error is not None and (trouble := storage_error(error, self._file)) is not None:
            if not self._wait_out(trouble):
                self._troubled = False  # that the next group gets through shows nothing: it may write nothing
                for pending in group:
                    pending.error = trouble
                self._call_on_loop(self._deliver, (), group)
                return
            events, error = self._attempt(connection, blobs, group)
        if self._troubled:
            self._troubled = False
            self._call_on_loop(self._standing.end, _SOURCE)
        if error is not None and len(group) > 1:
            for pending in group:
                self._commit(connection, blobs, [pending])
            return
        if error is not None:
            group[0].error = error
        self._call_on_loop(self._deliver, events, group)

    def _wait_out(self, error: StorageError) -> bool:
        """Wait a moment for trouble to clear; False if there is nothing to wait for, or nobody wants to."""
        if not isinstance(error, StorageTroubleError):
            self._final = error
            return False
        if not self._patient:
            return False
        self._troubled = True
        self._call_on_loop(self._standing.begin, _SOURCE, error)
        self._hurried.wait(RETRY_S)
        return True

    def _call_on_loop(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: what was written stands, nobody waits for it
            self._loop.call_soon_threadsafe(function, *args)

    def _attempt(
        self, connection: sqlite3.Connection, blobs: BlobWriter, group: list[_Pending[Any]]
    ) -> tuple[list[Event], BaseException | None]:
        """Run a group in one transaction; on an error nothing of it has happened."""
        transaction = Transaction(connection, blobs, self._subscriptions)
        try:
            if self._final is not None:
                raise self._final  # noqa: TRY301 - as if the write had met it
            connection.execute("BEGIN IMMEDIATE")
            for pending in group:
                pending.result = pending.write(transaction)
            self._check_in_place(connection)
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - the thread's border: handed to whoever awaits the write
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # then the next BEGIN fails, and tells those who wait
                    connection.execute("ROLLBACK")
            blobs.forget()
            return [], error
        return transaction.published, None

    def _check_in_place(self, connection: sqlite3.Connection) -> None:
        """Refuse to commit into files that nobody will find again: SQLite would, without a word.

        What is in the unlinked WAL goes into the database first, if that is still in its place.
        """
        identities = self._identities()
        if identities == self._in_place:
            return
        connection.execute("ROLLBACK")
        saved = identities[0] == self._in_place[0]
        if saved:
            _busy, pages, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            saved = pages == moved
        raise DatabaseGoneError(self._file, saved=saved)

    def _identities(self) -> tuple[tuple[int, int], ...]:
        """Which files are the database and its WAL now: device and inode, zeros for one that is missing."""
        found = []
        for file in (self._file, self._file.with_name(f"{self._file.name}-wal")):
            try:
                status = os.stat(file)  # noqa: PTH116 - once a commit, and a Path would cost as much again
                found.append((status.st_dev, status.st_ino))
            except FileNotFoundError:
                found.append((0, 0))
        return tuple(found)

    def _deliver(self, events: Sequence[Event], group: Sequence[_Pending[Any]]) -> None:
        """Back on the loop: first the bus hears of the events, then the writers of their results."""
        try:
            if events:
                self._on_commit(events)
        finally:  # whatever a listener's defect: the loop tells of it, and nobody waits for ever
            if not self._finished:
                self._loop.call_soon(self._hand_out)
            self._finished.extend(group)

    def _hand_out(self, before: float | None = None) -> None:
        """Give out some results, and the rest in the loop's next rounds; `before` is the time of the round before."""
        now = self._loop.time()
        if before is not None:
            took_long = now - before > _ROUND_S
            self._at_once = max(1, self._at_once // 2) if took_long else min(_MOST_AT_ONCE, self._at_once * 2)
        for _ in range(min(self._at_once, len(self._finished))):
            pending = self._finished.popleft()
            if pending.waiter.cancelled():
                continue
            if pending.error is not None:
                pending.waiter.set_exception(pending.error)
            else:
                pending.waiter.set_result(pending.result)
        if self._finished:
            self._loop.call_soon(self._hand_out, now)
