"""The database: durable, atomic writes from one writer, and readers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

import store.migrations
import store.writer
from store.database import FILE_NAME, Database, Reader
from store.deliveries import count_owed
from store.errors import DataLockedError, NewerDatabaseError, NoDatabaseError, StoreClosedError
from store.events import Event, RunStarted, TaskSubmitted
from store.lock import DataLock
from store.migrations import migrate, migration_steps
from store.runs import create_run, find_run
from store.transaction import Transaction


def begin(transaction: Transaction) -> int:
    return create_run(transaction, name="r", digest="d", identity={"critical.bad_max": 0.5}).id


@pytest.fixture
async def committed() -> list[Event]:
    return []


@pytest.fixture
async def database(tmp_path: Path, committed: list[Event]) -> AsyncIterator[Database]:
    def on_commit(events: Sequence[Event]) -> None:
        committed.extend(events)

    async with Database(tmp_path, subscriptions={"task-submitted": ["h"]}, on_commit=on_commit) as opened:
        yield opened


async def test_what_was_written_is_read_after_reopening(tmp_path: Path) -> None:
    async with Database(tmp_path) as first:
        await first.write(begin)
    async with Database(tmp_path) as second:
        run = await find_run(second, "r")
    assert run is not None
    assert run.identity == {"critical.bad_max": 0.5}


async def test_a_view_that_is_cancelled_at_any_moment_is_left(database: Database) -> None:
    async def look() -> int:
        async with database.view() as view:
            return await view.newest()

    for moment in range(40):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            for _ in range(moment % 8):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert await look() == 0


async def test_an_event_a_delivery_and_the_rows_they_tell_of_are_one_commit(database: Database) -> None:
    def write(transaction: Transaction) -> None:
        run = begin(transaction)
        transaction.publish(TaskSubmitted(run=run))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(write)
    assert await find_run(database, "r") is None
    assert not await count_owed(database, [1])


async def test_events_reach_the_listener_in_the_order_of_their_seq(
    database: Database, committed: list[Event]
) -> None:
    run = await database.write(begin)
    writes = [database.submit(lambda t: t.publish(TaskSubmitted(run=run))) for _ in range(50)]
    published = await asyncio.gather(*writes)
    assert [event.seq for event in committed] == list(range(1, 52))
    assert [event.seq for event in published] == list(range(2, 52))
    assert isinstance(committed[0], RunStarted)
    assert (await count_owed(database, [1])).total() == 50


async def test_writes_of_a_busy_loop_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.writer, "_GATHER_S", 3600.0)
    groups: list[Sequence[Event]] = []
    async with Database(tmp_path, on_commit=groups.append) as database:
        run = await database.write(begin)
        groups.clear()
        writes = []
        for _ in range(20):
            writes.append(database.submit(lambda t: t.publish(TaskSubmitted(run=run))))
            busy_round()
            await anyio.lowlevel.checkpoint()
        await asyncio.gather(*writes)
    assert [len(group) for group in groups] == [20]


async def test_a_loop_that_is_always_busy_still_has_its_writes_committed(database: Database) -> None:
    async with anyio.create_task_group() as tasks:

        async def never_rest() -> None:
            while True:
                busy_round()
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(never_rest)
        with anyio.fail_after(60):
            await database.write(begin)
        tasks.cancel_scope.cancel()


def busy_round() -> None:
    time.sleep(0.002)  # as a round of the loop in which much was to do


async def test_a_failing_write_fails_alone_in_its_group(database: Database) -> None:
    run = await database.write(begin)

    def good(transaction: Transaction) -> int:
        return transaction.publish(TaskSubmitted(run=run)).seq

    def bad(transaction: Transaction) -> int:
        transaction.publish(TaskSubmitted(run=run))
        transaction.execute("INSERT INTO runs (name) VALUES ('incomplete')")
        return 0

    # Submitted without a pause, so that the writer finds them in line together.
    futures = [database.submit(bad if number == 5 else good) for number in range(10)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(results[5], sqlite3.IntegrityError)
    assert sum(isinstance(result, int) for result in results) == 9
    assert (await count_owed(database, [1])).total() == 9


async def test_a_write_is_committed_although_its_caller_was_cancelled(database: Database) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await database.write(begin)
    await database.write(lambda _transaction: None)
    assert await find_run(database, "r") is not None


async def test_a_caller_cancelled_while_it_saves_leaves_when_that_is_committed(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(transaction: Transaction) -> int:
        begun.set()
        go_on.wait(20)
        return begin(transaction)

    async def save() -> None:
        try:
            await database.save(slowly)
        finally:
            left.append(True)

    left: list[bool] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(save)
        await anyio.to_thread.run_sync(begun.wait)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(20):  # rounds enough for whoever would not wait
                await anyio.lowlevel.checkpoint()
            assert not left
            go_on.set()
    assert await find_run(database, "r") is not None


async def test_a_save_that_fails_says_so_to_a_caller_that_is_cancelled(database: Database) -> None:
    def bad(_transaction: Transaction) -> None:
        raise ValueError("a bad write")

    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(ValueError, match="a bad write"):
            await database.save(bad)


async def test_blob_numbers_of_a_rolled_back_write_are_not_reused(database: Database) -> None:
    def lost(transaction: Transaction) -> None:
        transaction.blobs.text("x" * 200)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        await database.write(lost)
    number = await database.write(lambda transaction: transaction.blobs.text("x" * 200))
    rows = await database.fetch("SELECT id FROM blobs")
    assert [row["id"] for row in rows] == [number]


async def test_a_second_writer_is_told_who_holds_the_directory(database: Database, tmp_path: Path) -> None:
    with pytest.raises(DataLockedError, match="in use by process"):
        async with Database(tmp_path):
            pass
    assert not await count_owed(database, [1])


async def test_a_reader_works_beside_the_writer(database: Database, tmp_path: Path) -> None:
    await database.write(begin)
    async with Reader(tmp_path) as reader:
        assert await find_run(reader, "r") is not None


async def test_a_snapshot_does_not_move_while_others_write(database: Database) -> None:
    await database.write(begin)
    async with database.snapshot() as snapshot:
        await snapshot.execute("BEGIN")
        before = await snapshot.execute_fetchall("SELECT count(*) FROM events")
        run = await find_run(database, "r")
        assert run is not None
        await database.write(lambda t: t.publish(TaskSubmitted(run=run.id)))
        after = await snapshot.execute_fetchall("SELECT count(*) FROM events")
    assert [tuple(row) for row in before] == [tuple(row) for row in after]


async def test_reading_a_directory_without_a_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoDatabaseError, match="cso run"):
        async with Reader(tmp_path):
            pass


async def test_a_write_after_the_end_is_refused(tmp_path: Path) -> None:
    async with Database(tmp_path) as database:
        pass
    with pytest.raises(StoreClosedError):
        await database.write(begin)


async def test_a_database_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    async with Database(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "cso.sqlite3") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(NewerDatabaseError, match="999"):
        async with Database(tmp_path):
            pass


def form(connection: sqlite3.Connection) -> tuple[int, list[tuple[str, ...]]]:
    """The version of a database, and all that its schema says."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return version, connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """Two databases that hold nothing yet."""
    opened = [sqlite3.connect(tmp_path / name, isolation_level=None) for name in ("one", "two")]
    yield opened[0], opened[1]
    for connection in opened:
        connection.close()


def test_an_earlier_database_comes_to_the_form_of_a_fresh_one_with_what_it_holds(
    connections: tuple[sqlite3.Connection, sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, fresh = connections
    steps = migration_steps()
    migrate(earlier)
    earlier.execute("INSERT INTO runs (name, digest, identity, created) VALUES ('r', 'd', x'7b7d', 1)")
    # A semicolon inside a text does not end a statement.
    later = "ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT 'a;b';\nCREATE INDEX runs_note ON runs (note);\n"
    monkeypatch.setattr(store.migrations, "migration_steps", lambda: (*steps, later))
    for _ in range(2):
        migrate(earlier)
    migrate(fresh)
    assert form(earlier) == form(fresh)
    assert form(fresh)[0] == len(steps) + 1
    assert earlier.execute("SELECT name, note FROM runs").fetchall() == [("r", "a;b")]


def test_a_step_that_fails_leaves_the_database_as_it_was(
    connections: tuple[sqlite3.Connection, sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, _ = connections
    steps = migration_steps()
    migrate(database)
    before = form(database)
    later = "CREATE TABLE half (x INTEGER) STRICT;\nINSERT INTO absent VALUES (1);\n"
    monkeypatch.setattr(store.migrations, "migration_steps", lambda: (*steps, later))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        migrate(database)
    assert form(database) == before


async def test_a_database_that_is_being_made_is_none_yet(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # makes the file, before there is any table
    async with Reader(tmp_path) as reader:
        with pytest.raises(NoDatabaseError, match="cso run"):
            await find_run(reader, "r")


async def test_a_listener_s_defect_keeps_nobody_waiting(tmp_path: Path) -> None:
    told: list[BaseException] = []

    def on_commit(_events: Sequence[Event]) -> None:
        raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["exception"]))
    with anyio.fail_after(20):
        async with Database(tmp_path, on_commit=on_commit) as database:
            await database.write(begin)
    assert [type(error) for error in told] == [ZeroDivisionError]


def test_a_lock_whose_number_cannot_be_written_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    first, second = DataLock(tmp_path), DataLock(tmp_path)
    first.acquire()
    with pytest.raises(DataLockedError):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
