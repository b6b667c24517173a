"""Whether a data directory is sound: one check after the other, each with what it found and what to do about it.

Everything is read, from outside and beside whoever is writing; what cannot be read is a finding, not an error.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from store.database import FILE_NAME, reading_uri
from store.errors import DamagedDatabaseError, StorageTroubleError
from store.lock import DataLock
from store.migrations import migration_steps
from store.retention import BlobSet, references, unreferenced
from store.transaction import now_us
from store.trouble import free_bytes, probe, storage_error

Level: TypeAlias = Literal["ok", "warn", "fail"]
_OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables
_LARGE_WAL = 256 << 20
_LITTLE_ROOM = 1 << 30
_FEW_TRAJECTORIES = 1000
_CLOCK_TOLERANCE_US = 60_000_000
_SHOWN = 5
# A share of the database from which collecting garbage is worth a stop.
_MUCH_GARBAGE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found: `level` ok, warn or fail, and the next step unless all is well."""

    check: str
    level: Level
    text: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """A data directory under examination; `quick` leaves out what reads all of it."""

    directory: Path
    quick: bool = False

    @property
    def file(self) -> Path:
        """The database's file."""
        return self.directory / FILE_NAME

    @contextlib.contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """A connection that reads one state of the database."""
        connection = sqlite3.connect(reading_uri(self.file), uri=True, isolation_level=None, timeout=30.0)
        with contextlib.closing(connection):
            connection.execute("BEGIN")
            yield connection


Check: TypeAlias = Callable[[Patient], Iterator[Finding]]


def examine(patient: Patient, checks: tuple[Check, ...]) -> Iterator[Finding]:
    """Make checks in order; what keeps one from reading is said once for all, and the others go on."""
    told: set[str] = set()
    for check in checks:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        try:
            yield from check(patient)
        except (sqlite3.Error, OSError, ValueError) as error:
            wrong = storage_error(error, patient.file)
            text, next_step = str(wrong or error), _RESTORE
            if isinstance(wrong, StorageTroubleError):
                text, next_step = wrong.what, wrong.next_step
            elif isinstance(wrong, DamagedDatabaseError):
                text = f"{wrong.file} is damaged ({wrong.reason})"  # the rest of its message leads here
            if text not in told:
                told.add(text)
                yield Finding(check=name, level="fail", text=text, next_step=next_step)


_RESTORE = "put a backup in its place, or save what can be read with `sqlite3 cso.sqlite3 .recover`"


def check_directory(patient: Patient) -> Iterator[Finding]:
    """Is there a folder that takes files?"""
    if not patient.directory.exists():
        text = f"{patient.directory} does not exist yet; the first run makes it"
        yield Finding(
            check="directory", level="warn", text=text, next_step="start a run, or name another with --data"
        )
        return
    trouble = probe(patient.directory)
    if trouble is not None:
        yield Finding(check="directory", level="fail", text=trouble.what, next_step=trouble.next_step)
        return
    yield Finding(check="directory", level="ok", text=f"{patient.directory} takes files")


def check_space(patient: Patient) -> Iterator[Finding]:
    """How much room is left, and for how many more trajectories?"""
    free = free_bytes(patient.directory)
    if free is None:
        return
    used = sum(file.stat().st_size for file in (patient.file, _beside(patient.file, "-wal")) if file.exists())
    text, room_for = f"{readable_size(free)} free, {readable_size(used)} used by the database", None
    with contextlib.suppress(sqlite3.Error), patient.opened() as connection:
        (ended,) = connection.execute("SELECT count(*) FROM trajectories WHERE outcome IS NOT NULL").fetchone()
        if ended:
            room_for = free * ended // max(used, 1)
            room = f"room for about {room_for:,} more" if room_for else "no room for another one"
            text += f": {readable_size(used // ended)} for each of {ended} trajectories, {room}"
    little = free < _LITTLE_ROOM or (room_for is not None and room_for < _FEW_TRAJECTORIES)
    step = "free some space, or move the directory to a larger disk" if little else ""
    yield Finding(check="space", level="warn" if little else "ok", text=text, next_step=step)


def check_lock(patient: Patient) -> Iterator[Finding]:
    """Who works on the directory, and is that process alive?"""
    lock = DataLock(patient.directory)
    if not lock.is_held():
        yield Finding(check="lock", level="ok", text="nobody is working on the directory")
        return
    pid = lock.owner()
    if pid is not None and Path(f"/proc/{pid}").exists():
        yield Finding(check="lock", level="ok", text=f"process {pid} is working on the directory")
        if not _beside(patient.file, "-wal").exists():
            text = f"{patient.file.name}-wal is missing although process {pid} writes to it"
            yield Finding(check="lock", level="fail", text=text, next_step="stop that process: it saves what it can")
        return
    text = f"the lock is held, but not by a process that is seen here (it left the number {pid})"
    step = "look for another machine or container that works on this directory"
    yield Finding(check="lock", level="warn", text=text, next_step=step)


def check_version(patient: Patient) -> Iterator[Finding]:
    """Do SQLite, this program and the database fit each other?"""
    known = len(migration_steps())
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        text, oldest = f"SQLite is {sqlite3.sqlite_version}", ".".join(map(str, _OLDEST_SQLITE))
        yield Finding(
            check="version", level="fail", text=text, next_step=f"use a Python with SQLite {oldest} or later"
        )
        return
    with patient.opened() as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
    text = f"database version {version} (this program knows {known}), SQLite {sqlite3.sqlite_version}, {journal}"
    if version > known:
        yield Finding(check="version", level="fail", text=text, next_step="install the release that wrote it")
    elif journal != "wal":
        step = "nothing if you changed it; the next run changes it back"
        yield Finding(check="version", level="warn", text=text, next_step=step)
    else:
        yield Finding(check="version", level="ok", text=text)


def check_wal(patient: Patient) -> Iterator[Finding]:
    """Is what is committed but not yet in the database's file of a usual size?"""
    wal = _beside(patient.file, "-wal")
    size = wal.stat().st_size if wal.exists() else 0
    large = size > _LARGE_WAL
    step = "end readers that hold one state for long; restarting the daemon writes it back" if large else ""
    yield Finding(
        check="WAL", level="warn" if large else "ok", text=f"{wal.name}: {readable_size(size)}", next_step=step
    )


def check_integrity(patient: Patient) -> Iterator[Finding]:
    """Are the pages and indexes of the file what SQLite wrote?"""
    pragma = "quick_check" if patient.quick else "integrity_check"
    with patient.opened() as connection:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}({_SHOWN})")]
    if found == ["ok"]:
        yield Finding(check="integrity", level="ok", text=f"{pragma}: ok")
    else:
        yield Finding(check="integrity", level="fail", text=f"{pragma}: {'; '.join(found)}", next_step=_RESTORE)


def check_references(patient: Patient) -> Iterator[Finding]:
    """Does everything that a record refers to exist?"""
    with patient.opened() as connection:
        query = 'SELECT count(*), min("table"), min(parent) FROM pragma_foreign_key_check'
        broken = connection.execute(query).fetchone()
        found = [f"{broken[0]} references lead nowhere (as {broken[1]} to {broken[2]})"] if broken[0] else []
        for query, words in _ORPHANS:
            (number,) = connection.execute(query).fetchone()
            if number:
                found.append(f"{number} {words}")
        if not patient.quick:
            if missing := _missing_blobs(connection):
                found.append(f"{missing} texts or files that records need are missing")
            if connection.execute(_WRONG_SUMS).fetchone()[0]:
                found.append("what runs have bought does not add up to the journal")
    if found:
        yield Finding(check="references", level="fail", text="; ".join(found), next_step=_RESTORE)
    else:
        yield Finding(check="references", level="ok", text="every record has what it refers to")


_ORPHANS = (
    ("SELECT count(*) FROM deliveries WHERE event NOT IN (SELECT seq FROM events)", "deliveries of missing events"),
    (
        "SELECT count(*) FROM trajectories t WHERE outcome IN ('success', 'failure')"
        " AND NOT EXISTS (SELECT 1 FROM steps s WHERE s.trajectory = t.id)",
        "judged trajectories without a step",
    ),
    (
        "SELECT count(*) FROM pairs p WHERE NOT EXISTS (SELECT 1 FROM candidates c WHERE c.trajectory = p.trajectory"
        " AND c.step = p.step AND c.ordinal = 0) OR NOT EXISTS (SELECT 1 FROM candidates c WHERE c.id = p.candidate)"
        " OR NOT EXISTS (SELECT 1 FROM steps s JOIN calls a ON a.id = s.action_call"
        " WHERE s.trajectory = p.trajectory AND s.step = p.step)",
        "pairs without their candidates or their request",
    ),
)


_WRONG_SUMS = """
    SELECT (SELECT ifnull(sum(calls), 0) FROM spending) <> (SELECT count(*) FROM calls)
        OR (SELECT ifnull(sum(prompt_tokens + completion_tokens), 0) FROM spending)
           <> (SELECT ifnull(sum(prompt_tokens + completion_tokens), 0) FROM calls)
        OR (SELECT ifnull(sum(cost), 0) FROM spending) <> (SELECT ifnull(sum(cost), 0) FROM calls)
"""


def check_garbage(patient: Patient) -> Iterator[Finding]:
    """How much is kept that nothing needs?"""
    if patient.quick:
        return
    blobs = size = 0
    with patient.opened() as connection:
        for numbers in unreferenced(connection):
            blobs += len(numbers)
            for number in numbers:
                size += connection.execute("SELECT length(data) FROM blobs WHERE id = ?", (number,)).fetchone()[0]
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (page,) = connection.execute("PRAGMA page_size").fetchone()
    much = size + free * page > _MUCH_GARBAGE * patient.file.stat().st_size and size + free * page > 1 << 20
    text = f"{blobs} unused texts or files ({readable_size(size)}), {readable_size(free * page)} of free pages"
    yield Finding(
        check="garbage", level="warn" if much else "ok", text=text, next_step="run `cso gc`" if much else ""
    )


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Has the clock been set back behind what was recorded?"""
    with patient.opened() as connection:
        (latest,) = connection.execute("SELECT max(time) FROM events").fetchone()
    ahead = (latest or 0) - now_us()
    if ahead > _CLOCK_TOLERANCE_US:
        text = f"the newest event is {ahead / 1e6:.0f} seconds ahead of the clock"
        step = "set the clock right; the order of events stands whatever it says"
        yield Finding(check="clock", level="warn", text=text, next_step=step)
    else:
        yield Finding(check="clock", level="ok", text="the clock is not behind the newest event")


# The lock comes before whatever opens the database: SQLite would make a WAL that is missing.
DIRECTORY_CHECKS: tuple[Check, ...] = (check_directory, check_lock, check_space)
DATABASE_CHECKS: tuple[Check, ...] = (
    check_version,
    check_wal,
    check_integrity,
    check_references,
    check_garbage,
    check_clock,
)


def _missing_blobs(connection: sqlite3.Connection) -> int:
    (largest,) = connection.execute("SELECT ifnull(max(id), 0) FROM blobs").fetchone()
    there = BlobSet(largest)
    for (number,) in connection.execute("SELECT id FROM blobs"):
        there.add(number)
    return len({number for number in references(connection) if number not in there})


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def readable_size(size: int) -> str:
    """A number of bytes for people, as 1.5 MB."""
    for unit, width in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= width:
            return f"{size / width:.1f} {unit}"
    return f"{size} bytes"
