"""Tasks: what is to be solved, with its gold answer and the files that a rollout starts with."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

import orjson

from store.blobs import content_digest, decode_text
from store.database import Reader
from store.errors import StoreError
from store.events import TaskSubmitted
from store.formats.task_files import TaskRecord
from store.manifests import Manifest
from store.transaction import Transaction

_SELECT = """
    SELECT t.*, r.name AS run_name, b.data
    FROM tasks t
    JOIN runs r ON r.id = t.run
    JOIN blobs b ON b.id = t.question
    WHERE t.id = ?
"""


class ChangedTaskError(StoreError):
    """Raised when a task is submitted under the id of another one with different content."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"task {name!r} is already in this run with another question, answer or file: "
            "give the changed task an id of its own, or start a new run"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as handlers and agents see it."""

    id: int
    run: int
    run_name: str
    name: str
    question: str
    answer: str | None  # the gold answer
    workspace: int | None  # blob of the manifest of its files; None: no files


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """A file that comes with a task: its name in the workspace and its content."""

    name: str
    content: bytes


def submit_task(
    transaction: Transaction, *, run: int, record: TaskRecord, files: tuple[TaskFile, ...] = (), priority: int = 0
) -> bool:
    """Take a task into the queue of a run.

    Returns:
        False if the run has this task already: then nothing is changed.

    Raises:
        ChangedTaskError: the run has another task of that name.
    """
    digest = task_digest(record, files)
    known = transaction.execute("SELECT digest FROM tasks WHERE run = ? AND name = ?", (run, record.name)).fetchone()
    if known is not None:
        if known[0] != digest:
            raise ChangedTaskError(record.name)
        return False
    blobs = transaction.blobs
    manifest = Manifest.of_files({file.name: (blobs.content(file.content), 0o644) for file in files})
    identifier = transaction.insert(
        "INSERT INTO tasks (run, name, digest, question, answer, original, workspace, priority)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run,
            record.name,
            digest,
            blobs.text(record.question),
            record.answer,
            blobs.content(orjson.dumps(record.original)),
            blobs.content(manifest.encode()) if manifest.entries else None,
            priority,
        ),
    )
    transaction.publish(TaskSubmitted(run=run, task=identifier))
    return True


async def task_digests(reader: Reader, run: int, names: Collection[str]) -> dict[str, bytes]:
    """The digests of those of some tasks that a run has, by name."""
    rows = await reader.fetch(
        "SELECT name, digest FROM tasks WHERE run = ? AND name IN (SELECT value FROM json_each(?))",
        (run, orjson.dumps(list(names)).decode()),
    )
    return {row["name"]: row["digest"] for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Halted:
    """Names of tasks that nothing more is done for unless somebody says so."""

    set_aside: tuple[str, ...] = ()  # some of their work, after failures
    given_up: tuple[str, ...] = ()


async def halted_tasks(reader: Reader, run: int, names: Collection[str]) -> Halted:
    """Those of some tasks of a run that nothing more is done for, though they have not been finished."""
    rows = await reader.fetch(
        """
        SELECT t.name, EXISTS (SELECT 1 FROM deliveries d WHERE d.task = t.id AND d.dead = 1) AS set_aside,
               EXISTS (SELECT 1 FROM events e INDEXED BY events_ended
                       WHERE e.run = t.run AND e.kind IN ('task-finished', 'task-cancelled')
                       AND e.kind = 'task-cancelled' AND e.task = t.id) AS given_up
        FROM tasks t WHERE t.run = ? AND t.name IN (SELECT value FROM json_each(?)) AND (set_aside OR given_up)
        ORDER BY t.id
        """,
        (run, orjson.dumps(list(names)).decode()),
    )
    return Halted(
        set_aside=tuple(row["name"] for row in rows if row["set_aside"]),
        given_up=tuple(row["name"] for row in rows if not row["set_aside"]),
    )


async def find_task(reader: Reader, run: int, name: str) -> int | None:
    """The id of a run's task of that name, if there is one."""
    row = await reader.fetch_one("SELECT id FROM tasks WHERE run = ? AND name = ?", (run, name))
    return None if row is None else int(row["id"])


async def is_cancelled(reader: Reader, run: str, name: str) -> bool:
    """Whether a run's task of that name was given up."""
    row = await reader.fetch_one(
        "SELECT 1 FROM runs r JOIN tasks t ON t.run = r.id JOIN events e ON e.run = r.id AND e.task = t.id"
        " WHERE r.name = ? AND t.name = ? AND e.kind = 'task-cancelled'",
        (run, name),
    )
    return row is not None


async def load_task(reader: Reader, identifier: int) -> Task:
    """The task of that id, which must exist."""
    row = await reader.fetch_one(_SELECT, (identifier,))
    if row is None:
        raise LookupError(f"there is no task {identifier}")
    return _from_row(row)


def read_task(transaction: Transaction, identifier: int) -> Task:
    """The task of that id, which must exist, as a write sees it."""
    return _from_row(transaction.execute(_SELECT, (identifier,)).fetchone())


def _from_row(row: sqlite3.Row) -> Task:
    return Task(
        id=row["id"],
        run=row["run"],
        run_name=row["run_name"],
        name=row["name"],
        question=decode_text(row["data"]),
        answer=row["answer"],
        workspace=row["workspace"],
    )


def task_digest(record: TaskRecord, files: tuple[TaskFile, ...]) -> bytes:
    """What tells a task from a changed one of the same name."""
    parts = [record.question, record.answer, [[file.name, content_digest(file.content).hex()] for file in files]]
    return content_digest(orjson.dumps(parts))
