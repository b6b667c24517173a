"""What a data directory may forget: blobs that no record refers to, and the workspaces of finished runs.

References are found through the schema's foreign keys, so that a column which a later release adds cannot be
overlooked, and inside requests and manifests, which hold numbers of blobs. Work is done in small transactions under
the directory's lock: a crash leaves a sound database from which less has been removed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from store.blobs import content_digest, decode_blob, encode_blob
from store.database import FILE_NAME, open_writing, reading_uri
from store.errors import DamagedDatabaseError, NoDatabaseError, StorageTroubleError
from store.lock import DataLock
from store.manifests import DROPPED, FileEntry, Manifest
from store.migrations import check_version
from store.requests import referenced_blobs
from store.trouble import free_bytes, storage_error

_BATCH = 1000
# Columns of this name hold manifests.
_MANIFEST_COLUMN = "workspace"
_TOMBSTONE = "SELECT id FROM blobs WHERE digest = ?"
_INCREMENTAL = 2  # what PRAGMA auto_vacuum says of a database that can shrink in place


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was forgotten, or would be. All sizes are in bytes; the last two are of the database's file."""

    blobs: int
    blob_bytes: int
    workspaces: int  # steps whose files were given up
    size_before: int
    size_after: int


class BlobSet:
    """Numbers of blobs, a bit for each: 12 MB for a hundred million. Numbers that no blob has are left out."""

    def __init__(self, largest: int) -> None:
        self._bits = bytearray(largest // 8 + 1)

    def add(self, number: int) -> None:
        """Note a number."""
        if number >> 3 < len(self._bits):
            self._bits[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        return number >> 3 < len(self._bits) and bool(self._bits[number >> 3] & (1 << (number & 7)))


def collect_garbage(
    directory: Path, *, finished_workspaces: bool = False, vacuum: bool = False, dry_run: bool = False
) -> Collected:
    """Forget what nothing needs any more.

    Args:
        finished_workspaces: also the files that steps left, in runs of which nothing is owed or set aside. What pairs
            and exports need stays: they need requests and actions, and no files.
        vacuum: write the database anew and as small as it can be; takes as much room again while it lasts.
        dry_run: only say what would be forgotten; works beside a daemon.

    Raises:
        DataLockedError: someone works on the directory.
        NoDatabaseError: it holds no run.
        StorageError: it cannot be used, or has no room for a vacuum.
    """
    file = directory / FILE_NAME
    if not file.is_file():
        raise NoDatabaseError(directory)
    lock = DataLock(directory)
    try:
        if not dry_run:
            lock.acquire()
        with contextlib.closing(_connect(file, dry_run=dry_run)) as connection:
            return _collect(connection, file, finished_workspaces, vacuum, dry_run)
    except (sqlite3.Error, OSError) as error:
        raise storage_error(error, file) or error from error
    except ValueError as error:
        raise DamagedDatabaseError(file, str(error)) from error
    finally:
        lock.release()


def unreferenced(
    connection: sqlite3.Connection, *, without_steps_of: frozenset[int] = frozenset()
) -> Iterator[list[int]]:
    """The blobs that nothing refers to, in ascending order and in lists of no more than a thousand.

    Args:
        without_steps_of: runs whose steps' workspaces are not to count.
    """
    (largest,) = connection.execute("SELECT ifnull(max(id), 0) FROM blobs").fetchone()
    referenced = BlobSet(largest)
    for number in references(connection, without_steps_of=without_steps_of):
        referenced.add(number)
    last, query = 0, "SELECT id FROM blobs WHERE id > ? ORDER BY id LIMIT ?"
    # Read to the end each time: a query left open would keep the WAL from being written back while we delete.
    while numbers := [row[0] for row in connection.execute(query, (last, _BATCH)).fetchall()]:
        yield [number for number in numbers if number not in referenced]
        last = numbers[-1]


def references(connection: sqlite3.Connection, *, without_steps_of: frozenset[int] = frozenset()) -> Iterator[int]:
    """The number of the blob behind each reference, repeatedly; a blob that is missing, too."""
    for table, column in blob_columns(connection):
        given_up = table == "steps" and column == _MANIFEST_COLUMN and without_steps_of
        where = f" AND NOT {_of_runs(without_steps_of)}" if given_up else ""
        query = f'SELECT DISTINCT "{column}" FROM "{table}" WHERE "{column}" IS NOT NULL{where}'  # noqa: S608 - schema
        for (number,) in connection.execute(query):
            yield number
            if column == _MANIFEST_COLUMN:
                yield from _files(connection, number)
    for (request,) in connection.execute("SELECT request FROM calls"):
        yield from referenced_blobs(request)
    yield from (row[0] for row in connection.execute(_TOMBSTONE, (content_digest(DROPPED),)))


def blob_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Every column that refers to blobs by a foreign key, as (table, column)."""
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return sorted(
        (table, row[3])
        for table in tables
        for row in connection.execute(f'PRAGMA foreign_key_list("{table}")')
        if row[2] == "blobs"
    )


def finished_runs(connection: sqlite3.Connection) -> frozenset[int]:
    """Runs that have tasks, and of which nothing is owed to any handler or set aside."""
    rows = connection.execute(
        "SELECT id FROM runs WHERE id IN (SELECT run FROM tasks) AND id NOT IN (SELECT run FROM deliveries)"
    )
    return frozenset(row[0] for row in rows)


def _connect(file: Path, *, dry_run: bool) -> sqlite3.Connection:
    if not dry_run:
        connection = open_writing(file)
        # A blob's row is removed only after everything was searched; SQLite would search all tables for each.
        connection.execute("PRAGMA foreign_keys = OFF")
    else:
        connection = sqlite3.connect(reading_uri(file), uri=True, isolation_level=None)
        check_version(connection.execute("PRAGMA user_version").fetchone()[0], file)
    connection.row_factory = None
    return connection


def _collect(
    connection: sqlite3.Connection, file: Path, finished_workspaces: bool, vacuum: bool, dry_run: bool
) -> Collected:
    before = file.stat().st_size
    runs = finished_runs(connection) if finished_workspaces else frozenset[int]()
    workspaces = _count_workspaces(connection, runs)
    if dry_run:
        # One state of the database, whatever a daemon does meanwhile.
        connection.execute("BEGIN")
    elif workspaces:
        _give_up_workspaces(connection, runs)
    blobs = size = 0
    for numbers in unreferenced(connection, without_steps_of=runs):
        size += _sizes(connection, numbers)
        blobs += len(numbers)
        if not dry_run:
            _delete(connection, numbers)
    if not dry_run:
        _shrink(connection, file, vacuum=vacuum)
    return Collected(
        blobs=blobs, blob_bytes=size, workspaces=workspaces, size_before=before, size_after=file.stat().st_size
    )


def _files(connection: sqlite3.Connection, manifest: int) -> Iterator[int]:
    """The blobs that a manifest needs; none if it was given up or is missing, which the doctor tells of."""
    row = connection.execute("SELECT data FROM blobs WHERE id = ?", (manifest,)).fetchone()
    content = DROPPED if row is None else decode_blob(row[0])
    if content != DROPPED:
        for entry in Manifest.decode(content).entries.values():
            if isinstance(entry, FileEntry):
                yield entry.blob


def _of_runs(runs: frozenset[int]) -> str:
    """The condition on a row of `steps` that it belongs to one of these runs."""
    listed = ", ".join(str(run) for run in sorted(runs))
    return (
        "trajectory IN (SELECT t.id FROM trajectories t JOIN tasks k ON k.id = t.task"  # noqa: S608 - numbers
        f" WHERE k.run IN ({listed}))"
    )


def _count_workspaces(connection: sqlite3.Connection, runs: frozenset[int]) -> int:
    query = (
        "SELECT count(*) FROM steps WHERE workspace IS NOT NULL AND workspace NOT IN"  # noqa: S608 - numbers
        f" (SELECT id FROM blobs WHERE digest = ?) AND {_of_runs(runs)}"
    )
    return int(connection.execute(query, (content_digest(DROPPED),)).fetchone()[0])


def _give_up_workspaces(connection: sqlite3.Connection, runs: frozenset[int]) -> None:
    """Let the steps of some runs name the tombstone instead of their manifests, some trajectories at a time."""
    with _transaction(connection):
        connection.execute(
            "INSERT INTO blobs (digest, data) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING",
            (content_digest(DROPPED), encode_blob(DROPPED)),
        )
    (dropped,) = connection.execute(_TOMBSTONE, (content_digest(DROPPED),)).fetchone()
    (largest,) = connection.execute("SELECT ifnull(max(id), 0) FROM trajectories").fetchone()
    for first in range(1, largest + 1, _BATCH):
        with _transaction(connection):
            connection.execute(
                "UPDATE steps SET workspace = ? WHERE trajectory BETWEEN ? AND ? AND workspace IS NOT NULL"  # noqa: S608
                f" AND workspace <> ? AND {_of_runs(runs)}",
                (dropped, first, first + _BATCH - 1, dropped),
            )


def _sizes(connection: sqlite3.Connection, numbers: list[int]) -> int:
    size = 0
    for number in numbers:
        size += connection.execute("SELECT length(data) FROM blobs WHERE id = ?", (number,)).fetchone()[0]
    return size


def _delete(connection: sqlite3.Connection, numbers: list[int]) -> None:
    with _transaction(connection):
        connection.executemany("DELETE FROM blobs WHERE id = ?", [(number,) for number in numbers])


def _shrink(connection: sqlite3.Connection, file: Path, *, vacuum: bool) -> None:
    """Give free pages back to the file system, those at the end of the file without any room of their own."""
    if vacuum:
        free, size = free_bytes(file.parent), file.stat().st_size
        if free is not None and free < size:
            raise StorageTroubleError(
                "full",
                f"a vacuum of {file} needs {size / 1e6:.1f} MB of room, and there are {free / 1e6:.1f} MB",
                "free some space there, or leave --vacuum out",
            )
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect in the file that VACUUM writes
        connection.execute("VACUUM")
    elif connection.execute("PRAGMA auto_vacuum").fetchone()[0] == _INCREMENTAL:
        while connection.execute("PRAGMA freelist_count").fetchone()[0]:
            connection.execute(f"PRAGMA incremental_vacuum({_BATCH})").fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
