"""What a data directory holds, in a form that two runs of the same work share: names instead of row numbers.

Owns the comparison that every interrupted run must stand. Times and row numbers are left out, and so are the events
that tell of the interruptions themselves; everything else that was earned is in.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from store.blobs import decode_blob, decode_text
from store.database import FILE_NAME
from store.events import decode_event
from store.manifests import FileEntry, Manifest

# What was asked, and where from: the digest of the request and its trace headers.
RequestKey = tuple[str, str, str, str, str]
_DISTURBANCES = ("resumed", "delivery-failed", "budget-spent")


@dataclass(slots=True)
class Facts:
    """Everything that counts, by sort; a fact that is there twice counts twice.

    `owed` are deliveries that are not done, `damage` what SQLite finds wrong with the file.
    """

    sorts: dict[str, Counter[tuple[Hashable, ...]]] = field(default_factory=dict)
    owed: int = 0
    damage: list[str] = field(default_factory=list)

    def differences(self, other: Facts) -> list[str]:
        """What one has and the other has not, or not as often, in words; empty if they are equal."""
        found = []
        for sort in sorted(self.sorts.keys() | other.sorts.keys()):
            mine, theirs = self.sorts.get(sort, Counter()), other.sorts.get(sort, Counter())
            found += [f"{sort}: only here {count}×: {_short(fact)}" for fact, count in (mine - theirs).items()]
            found += [f"{sort}: only there {count}×: {_short(fact)}" for fact, count in (theirs - mine).items()]
        return found


def _short(fact: tuple[Hashable, ...]) -> str:
    return repr(fact)[:400]


@contextlib.contextmanager
def _opened(data: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"file:{data / FILE_NAME}?mode=ro", uri=True, timeout=30)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        yield connection


def paid_requests(data: Path) -> set[RequestKey]:
    """Every request whose reply the journal has; none where there is no database yet."""
    if not (data / FILE_NAME).exists():
        return set()
    with _opened(data) as connection:
        try:
            labels = _labels(connection)
        except sqlite3.OperationalError:  # killed before the tables were made
            return set()
        rows = connection.execute("SELECT trajectory, step, role, module, digest FROM calls").fetchall()
    return {
        (row["digest"].hex(), labels[row["trajectory"]], str(row["step"]), row["role"], row["module"]) for row in rows
    }


def facts_of(data: Path) -> Facts:
    """All facts of a data directory."""
    with _opened(data) as connection:
        reading = _Reading(connection, _labels(connection))
        return Facts(
            sorts={
                "task": reading.tasks(),
                "trajectory": reading.trajectories(),
                "step": reading.steps(),
                "call": reading.calls(),
                "candidate": reading.candidates(),
                "pair": reading.pairs(),
                "event": reading.events(),
            },
            owed=connection.execute("SELECT count(*) FROM deliveries").fetchone()[0],
            damage=_damage(connection),
        )


def _damage(connection: sqlite3.Connection) -> list[str]:
    found = [str(tuple(row)) for row in connection.execute("PRAGMA foreign_key_check")]
    return found + [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]


def _labels(connection: sqlite3.Connection) -> dict[int, str]:
    """Names of all trajectories, as the trace headers give them."""
    rows = connection.execute(
        "SELECT t.id, k.name, t.ordinal, t.fork, p.ordinal AS parent, c.ordinal AS candidate FROM trajectories t"
        " JOIN tasks k ON k.id = t.task LEFT JOIN trajectories p ON p.id = t.parent"
        " LEFT JOIN candidates c ON c.id = t.candidate"
    ).fetchall()
    return {
        row["id"]: f"{row['name']}/{row['ordinal']}"
        if row["fork"] is None
        else f"{row['name']}/{row['parent']}@{row['fork']}.{row['candidate']}.{row['ordinal']}"
        for row in rows
    }


@dataclass(slots=True)
class _Reading:
    """One reading of a database, in one snapshot."""

    connection: sqlite3.Connection
    labels: dict[int, str]
    _texts: dict[int, str] = field(default_factory=dict)

    def tasks(self) -> Counter[tuple[Hashable, ...]]:
        rows = self.connection.execute("SELECT name, digest, answer FROM tasks").fetchall()
        return Counter(tuple(row) for row in rows)

    def trajectories(self) -> Counter[tuple[Hashable, ...]]:
        rows = self.connection.execute("SELECT * FROM trajectories").fetchall()
        return Counter(
            (self.labels[row["id"]], row["outcome"], row["stop_reason"], self._text(row["answer"]), row["error"])
            for row in rows
        )

    def steps(self) -> Counter[tuple[Hashable, ...]]:
        rows = self.connection.execute("SELECT * FROM steps").fetchall()
        return Counter(
            (
                self.labels[row["trajectory"]],
                row["step"],
                *(self._text(row[name]) for name in ("action", "state", "observation", "result")),
                row["failed"],
                self._files(row["workspace"]),
            )
            for row in rows
        )

    def calls(self) -> Counter[tuple[Hashable, ...]]:
        rows = self.connection.execute("SELECT * FROM calls").fetchall()
        return Counter(
            (
                self.labels[row["trajectory"]],
                *(row[name] for name in ("step", "role", "module", "ordinal", "digest")),
                self._text(row["reply"]),
            )
            for row in rows
        )

    def candidates(self) -> Counter[tuple[Hashable, ...]]:
        rows = self.connection.execute("SELECT * FROM candidates").fetchall()
        return Counter(
            (
                self.labels[row["trajectory"]],
                *(row[name] for name in ("step", "ordinal", "duplicate_of", "usable", "score")),
                self._text(row["action"]),
            )
            for row in rows
        )

    def pairs(self) -> Counter[tuple[Hashable, ...]]:
        candidates, names = self._candidate_names(), ("successes", "rollouts", "control_successes", "controls")
        rows = self.connection.execute("SELECT * FROM pairs").fetchall()
        return Counter((candidates[row["candidate"]], *(row[name] for name in names)) for row in rows)

    def events(self) -> Counter[tuple[Hashable, ...]]:
        candidates = self._candidate_names()
        pairs = {
            row["id"]: candidates[row["candidate"]]
            for row in self.connection.execute("SELECT id, candidate FROM pairs").fetchall()
        }
        names = {"trajectory": self.labels, "parent": self.labels, "candidate": candidates, "pair": pairs}
        tasks = dict(self.connection.execute("SELECT id, name FROM tasks").fetchall())
        found: Counter[tuple[Hashable, ...]] = Counter()
        for row in self.connection.execute("SELECT * FROM events ORDER BY seq").fetchall():
            if row["kind"] in _DISTURBANCES:
                continue
            event = decode_event(
                row["kind"], run=row["run"], task=row["task"], seq=row["seq"], time=row["time"], body=row["body"]
            )
            own = [
                (name, names[name][value] if name in names and isinstance(value, int) else str(value))
                for name, value in event.facts().items()
            ]
            found[(event.kind, tasks.get(event.task), tuple(own))] += 1
        return found

    def _candidate_names(self) -> dict[int, str]:
        rows = self.connection.execute("SELECT id, trajectory, step, ordinal FROM candidates").fetchall()
        return {row["id"]: f"{self.labels[row['trajectory']]} {row['step']}.{row['ordinal']}" for row in rows}

    def _text(self, blob: int | None) -> str | None:
        if blob is None:
            return None
        if blob not in self._texts:
            self._texts[blob] = decode_text(self._data(blob))
        return self._texts[blob]

    def _files(self, blob: int | None) -> tuple[Hashable, ...]:
        """The files of a manifest by content, since blob numbers hang on the order of commits."""
        if blob is None:
            return ()
        entries = Manifest.decode(decode_blob(self._data(blob))).entries
        return tuple(
            (path, blake2b(decode_blob(self._data(entry.blob))).hexdigest(), entry.mode)
            if isinstance(entry, FileEntry)
            else (path, repr(entry))
            for path, entry in sorted(entries.items())
        )

    def _data(self, blob: int) -> bytes:
        data = self.connection.execute("SELECT data FROM blobs WHERE id = ?", (blob,)).fetchone()[0]
        assert isinstance(data, bytes)
        return data
