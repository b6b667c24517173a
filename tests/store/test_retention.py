"""Collecting garbage removes what nothing refers to and nothing else, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
from pathlib import Path

import anyio
import pytest

from store.calls import CallRecord, Place, load_request, record_call
from store.candidates import NewCandidate, add_candidates
from store.database import FILE_NAME, Database, Reader
from store.errors import DamagedDatabaseError, DataLockedError, NoDatabaseError
from store.events import TaskFinished
from store.formats.task_files import TaskRecord
from store.manifests import DROPPED, DroppedWorkspaceError, Manifest
from store.messages import Message
from store.retention import blob_columns, collect_garbage
from store.runs import create_run
from store.tasks import TaskFile, submit_task
from store.trajectories import begin_trajectory
from store.transaction import Transaction

LONG = "a text that is too long to stand in the request itself, so that it is a blob: "


def a_run(transaction: Transaction, name: str) -> None:
    """Commit a run whose every column and place that may refer to a blob does."""
    run = create_run(transaction, name=name, digest="d", identity={}).id
    record = TaskRecord(name="t", question=f"{name}?", answer="A", file=None, original={"id": name})
    submit_task(transaction, run=run, record=record, files=(TaskFile(name="f", content=name.encode() * 50),))
    (task,) = transaction.execute("SELECT id FROM tasks WHERE run = ?", (run,)).fetchone()
    trajectory = begin_trajectory(transaction, task=task, ordinal=0)
    call = a_call(transaction, run, task, trajectory, name)
    text = transaction.blobs.text
    file = transaction.blobs.content(f"{name} wrote this".encode() * 100)
    manifest = transaction.blobs.content(Manifest.of_files({"out": (file, 0o644)}).encode())
    transaction.execute(
        "INSERT INTO steps VALUES (?, 0, ?, ?, ?, ?, ?, ?, 0, 1.0)",
        (trajectory, call, text(f"{name} a"), text(f"{name} s"), text(f"{name} o"), manifest, text(f"{name} r")),
    )
    transaction.execute(
        "UPDATE trajectories SET outcome = 'failure', answer = ? WHERE id = ?", (text(f"{name} answer"), trajectory)
    )
    own = NewCandidate(ordinal=0, action=f"{name} own", call=call, duplicate_of=None, usable=True, score=0.1)
    add_candidates(transaction, trajectory=trajectory, step=0, candidates=[own])


def a_call(transaction: Transaction, run: int, task: int, trajectory: int, name: str) -> int:
    record = CallRecord(
        place=Place(trajectory=trajectory, step=0, role="policy", module="action"),
        digest=b"d",
        content=f"{name} reply",
        reasoning=f"{name} reasoning",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        cached_tokens=0,
        latency=0.1,
        attempts=1,
        endpoint="e",
    )
    messages = (Message("system", LONG + name), Message.joined("user", LONG, f"{name} history " * 9))
    return record_call(transaction, run=run, task=task, messages=messages, record=record).call


async def two_runs(folder: Path, garbage: int = 0) -> None:
    """Two runs, of which the first has nothing owed and the second has."""
    async with Database(folder, subscriptions={"task-submitted": ["collect"]}) as database:
        await database.write(lambda t: a_run(t, "finished"))
        await database.write(lambda t: t.execute("DELETE FROM deliveries"))
        await database.write(lambda t: a_run(t, "going on"))

        def waste(transaction: Transaction) -> None:
            for number in range(garbage):
                transaction.blobs.content(number.to_bytes(4, "big") + os.urandom(2000))

        await database.write(waste)


def rows(folder: Path, sql: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        return connection.execute(sql).fetchall()


def test_every_column_that_refers_to_blobs_is_known_by_its_foreign_key(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x")) as connection:
        for statement in ("blobs (id)", "plug_in (page REFERENCES blobs (id), other REFERENCES blobs)"):
            connection.execute(f"CREATE TABLE {statement}")
        assert blob_columns(connection) == [("plug_in", "other"), ("plug_in", "page")]


async def test_manifests_stand_in_columns_of_one_name_and_requests_in_one_column(tmp_path: Path) -> None:
    # Numbers of blobs inside a value are found by these names: a new column that holds some must be added there.
    await two_runs(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        columns = blob_columns(connection)
        raw = {
            (row[0], row[1])
            for row in connection.execute(
                "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c"
                " WHERE t.type = 'table' AND c.type = 'BLOB'"
            )
        }
    assert [table for table, column in columns if column == "workspace"] == ["steps", "tasks"]
    assert raw == {
        ("blobs", "data"),
        ("blobs", "digest"),
        ("calls", "digest"),
        ("calls", "request"),
        ("events", "body"),
        ("runs", "identity"),
        ("tasks", "digest"),
    }


async def test_what_records_refer_to_stays_and_the_rest_goes(tmp_path: Path) -> None:
    await two_runs(tmp_path)
    needed = rows(tmp_path, "SELECT id, data FROM blobs")
    async with Database(tmp_path) as database:
        for size in (10, 5000):
            await database.write(lambda t, size=size: t.blobs.content(os.urandom(size)))  # type: ignore[misc]
    collected = collect_garbage(tmp_path)
    assert (collected.blobs, collected.workspaces) == (2, 0)
    assert collected.blob_bytes > 5000
    assert rows(tmp_path, "SELECT id, data FROM blobs") == needed
    assert rows(tmp_path, "PRAGMA foreign_key_check") == []
    assert collect_garbage(tmp_path).blobs == 0


async def test_only_finished_runs_give_up_their_workspaces_and_never_those_of_tasks(tmp_path: Path) -> None:
    await two_runs(tmp_path)
    before = rows(tmp_path, "SELECT count(*) FROM blobs")[0][0]
    collected = collect_garbage(tmp_path, finished_workspaces=True)
    # The manifest and its one file; the tombstone came in their place.
    assert (collected.workspaces, collected.blobs) == (1, 2)
    assert rows(tmp_path, "SELECT count(*) FROM blobs") == [(int(str(before)) - 2 + 1,)]
    again = collect_garbage(tmp_path, finished_workspaces=True)
    assert (again.workspaces, again.blobs) == (0, 0)
    async with Reader(tmp_path) as reader:
        (given_up, kept) = await reader.fetch("SELECT b.data FROM steps s JOIN blobs b ON b.id = s.workspace")
        assert given_up["data"][1:] == DROPPED
        assert Manifest.decode(kept["data"][1:]).entries.keys() == {"out"}
        assert len(await load_request(reader, 1)) == 2
        for task in await reader.fetch("SELECT workspace FROM tasks"):
            (manifest,) = await reader.fetch("SELECT data FROM blobs WHERE id = ?", (task["workspace"],))
            (entry,) = Manifest.decode(manifest["data"][1:]).entries.values()
            assert await reader.fetch("SELECT 1 FROM blobs WHERE id = ?", (entry.blob,))  # type: ignore[union-attr]


def test_files_that_were_given_up_are_never_taken_for_no_files() -> None:
    with pytest.raises(DroppedWorkspaceError, match="cso gc"):
        Manifest.decode(DROPPED)


async def test_a_dry_run_changes_nothing_and_works_beside_a_daemon(tmp_path: Path) -> None:
    await two_runs(tmp_path, garbage=5)
    before = rows(tmp_path, "SELECT * FROM blobs"), rows(tmp_path, "SELECT * FROM steps")
    async with Database(tmp_path):
        wanted = collect_garbage(tmp_path, finished_workspaces=True, dry_run=True)
    assert (wanted.blobs, wanted.workspaces) == (7, 1)
    assert (rows(tmp_path, "SELECT * FROM blobs"), rows(tmp_path, "SELECT * FROM steps")) == before
    done = collect_garbage(tmp_path, finished_workspaces=True)
    assert (done.blobs, done.blob_bytes, done.workspaces) == (wanted.blobs, wanted.blob_bytes, wanted.workspaces)


async def test_nothing_is_collected_while_someone_works_on_the_directory(tmp_path: Path) -> None:
    await two_runs(tmp_path)
    async with Database(tmp_path):
        with pytest.raises(DataLockedError, match="in use by process"):
            collect_garbage(tmp_path)
    with pytest.raises(NoDatabaseError):
        collect_garbage(tmp_path / "elsewhere")


@pytest.mark.parametrize("vacuum", [False, True])
async def test_space_is_given_back_to_the_disk(tmp_path: Path, vacuum: bool) -> None:
    await two_runs(tmp_path, garbage=2500)
    collected = collect_garbage(tmp_path, vacuum=vacuum)
    assert collected.blobs == 2500
    assert collected.size_before > 5_000_000
    assert (tmp_path / FILE_NAME).stat().st_size == collected.size_after < 500_000
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    async with Database(tmp_path) as database:
        number = await database.write(lambda t: t.blobs.text("written after it"))
        assert number is not None


async def test_a_kill_in_the_middle_leaves_a_sound_database_to_go_on_from(tmp_path: Path) -> None:
    await two_runs(tmp_path, garbage=3500)
    result = await anyio.run_process([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert rows(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    left = collect_garbage(tmp_path)
    assert 0 < left.blobs < 3500
    assert rows(tmp_path, "PRAGMA foreign_key_check") == []
    assert collect_garbage(tmp_path).blobs == 0


_KILLED = """
import os, signal, sys
from pathlib import Path
from store import retention

batches, delete = [], retention._delete

def killed(connection, numbers):
    batches.append(numbers)
    if len(batches) == 3:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM blobs WHERE id >= ?", (numbers[0],))
        os.kill(os.getpid(), signal.SIGKILL)
    delete(connection, numbers)

retention._delete = killed
retention.collect_garbage(Path(sys.argv[1]))
"""


async def test_a_damaged_manifest_stops_the_collection_before_anything_is_dropped(tmp_path: Path) -> None:
    await two_runs(tmp_path, garbage=3)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
        connection.execute("UPDATE blobs SET data = x'09' WHERE id = (SELECT max(workspace) FROM steps)")
    before = rows(tmp_path, "SELECT id FROM blobs")
    with pytest.raises(DamagedDatabaseError, match="unknown marker byte"):
        collect_garbage(tmp_path)
    assert rows(tmp_path, "SELECT id FROM blobs") == before


async def test_a_run_whose_work_is_set_aside_is_not_finished(tmp_path: Path) -> None:
    await two_runs(tmp_path)
    async with Database(tmp_path, subscriptions={"task-finished": ["h"]}) as database:
        await database.write(lambda t: t.publish(TaskFinished(run=1, task=1)))
        await database.write(lambda t: t.execute("UPDATE deliveries SET dead = 1"))
    assert collect_garbage(tmp_path, finished_workspaces=True).workspaces == 0
