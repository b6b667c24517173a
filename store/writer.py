"""The one writer: a thread that runs writes in order and commits them in groups.

A write is a function of a `Transaction`. All writes that wait when the thread comes round share one commit, which
hides the disk's latency from everyone but the first. If one of a group fails, the group is rolled back and each is
run in a transaction of its own, so that it fails alone. A caller that was cancelled does not take its write along:
a result already earned is saved.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from store.blobs import BlobWriter
from store.errors import StoreClosedError
from store.events import Event
from store.transaction import Transaction

T = TypeVar("T")
Write: TypeAlias = Callable[[Transaction], T]
CommitListener: TypeAlias = Callable[[Sequence[Event]], None]

# Longer groups only delay the first of them: the commit's cost is long since spread thin.
_GROUP = 256


@dataclass(slots=True)
class _Pending(Generic[T]):
    """A write and the one who waits for it; then its result or its error."""

    write: Write[T]
    waiter: asyncio.Future[T]
    result: T | None = None
    error: BaseException | None = None


class Writer:
    """Owns the writing connection and its thread; made and used on one event loop."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        subscriptions: Mapping[str, Sequence[str]],
        on_commit: CommitListener,
    ) -> None:
        self._connect = connect
        self._subscriptions = subscriptions
        self._on_commit = on_commit
        # Any: writes of every result type wait in one line.
        self._queue: queue.SimpleQueue[_Pending[Any] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    async def start(self) -> None:
        """Open the database and bring it up to date; raises what that raises."""
        self._thread.start()
        await self._opened

    def submit(self, write: Write[T]) -> asyncio.Future[T]:
        """Put a write in line; it will happen whether or not anyone awaits the future.

        Raises:
            StoreClosedError: the writer has been closed.
        """
        if self._closed:
            raise StoreClosedError("the store is closed: nothing more can be written")
        pending = _Pending(write, self._loop.create_future())
        self._queue.put(pending)
        return pending.waiter

    async def close(self) -> None:
        """Commit what is in line, then close the connection. Bounded by the disk alone."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            connection = self._connect()
        except BaseException as error:  # noqa: BLE001 - the thread's border: handed to whoever awaits start()
            self._loop.call_soon_threadsafe(self._opened.set_exception, error)
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
        """Wait for a write, then take whatever else is in line; False once the writer is to close."""
        group: list[_Pending[Any]] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) == _GROUP:
                return group, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, connection: sqlite3.Connection, blobs: BlobWriter, group: list[_Pending[Any]]) -> None:
        events, error = self._attempt(connection, blobs, group)
        if error is not None and len(group) > 1:
            for pending in group:
                self._commit(connection, blobs, [pending])
            return
        if error is not None:
            group[0].error = error
        with contextlib.suppress(RuntimeError):  # the loop is gone: the write stands, nobody waits for it
            self._loop.call_soon_threadsafe(self._deliver, events, group)

    def _attempt(
        self, connection: sqlite3.Connection, blobs: BlobWriter, group: list[_Pending[Any]]
    ) -> tuple[list[Event], BaseException | None]:
        """Run a group in one transaction; on an error nothing of it has happened."""
        transaction = Transaction(connection, blobs, self._subscriptions)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for pending in group:
                pending.result = pending.write(transaction)
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - the thread's border: handed to whoever awaits the write
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            blobs.forget()
            return [], error
        return transaction.published, None

    def _deliver(self, events: Sequence[Event], group: Sequence[_Pending[Any]]) -> None:
        """Back on the loop: first the bus hears of the events, then the writers of their results."""
        if events:
            self._on_commit(events)
        for pending in group:
            if pending.waiter.cancelled():
                continue
            if pending.error is not None:
                pending.waiter.set_exception(pending.error)
            else:
                pending.waiter.set_result(pending.result)
