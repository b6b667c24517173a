"""Reading the log: events in the order of their seq, a page at a time, in words that need no other table.

A page looks at a bounded stretch of the log in a read of its own, so neither memory nor the write-ahead log grows
with what is read, however rare the wanted events are. Commits make seqs visible in their order and without gaps that
fill later, so whoever goes on after the last seq seen misses nothing and repeats nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson

from store.database import Reader
from store.events import decode_event
from store.jsontypes import JsonValue
from store.trajectories import load_labels

PAGE = 500
# Events that one read looks at. More of them hold back the checkpoints of whoever writes meanwhile.
_STRETCH = 20_000
_LABELS_KEPT = 20_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Own fields that hold the number of a trajectory, and the one that holds that of a candidate.
_TRAJECTORIES = ("trajectory", "parent")
_CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event in words: `run` and `task` are names, as are the trajectories among its own fields.

    `fields` are those of the kind in their order, as docs/events.md describes them; a kind that this release does not
    know has one field `body`, the stored JSON array.
    """

    seq: int
    time: int  # microseconds since 1970, UTC
    kind: str
    run: str
    task: str | None
    fields: Mapping[str, JsonValue]

    def as_json(self) -> dict[str, JsonValue]:
        """The one form in which events leave the program."""
        return {
            "seq": self.seq,
            "time": time_text(self.time),
            "kind": self.kind,
            "run": self.run,
            "task": self.task,
            **self.fields,
        }

    def line(self) -> bytes:
        """The same as one line of JSON, with its line break."""
        return orjson.dumps(self.as_json(), option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events are read: of some kinds, one task, one run, by name; None means all. `but` are kinds left out."""

    kinds: Collection[str] | None = None
    but: Collection[str] = ()
    task: str | None = None
    run: str | None = None

    @property
    def values(self) -> dict[str, str | None]:
        """The values that `_IS_WANTED` binds."""
        kinds = None if self.kinds is None else _listed(sorted(self.kinds))
        return {"kinds": kinds, "but": _listed(sorted(self.but)), "task": self.task, "run": self.run}


EVERYTHING = Wanted()
# The cross join has SQLite go from the few runs to the task by its name, instead of through all tasks.
_IS_WANTED = """
    WHERE e.seq > :start AND e.seq <= :end
    AND (:kinds IS NULL OR e.kind IN (SELECT value FROM json_each(:kinds)))
    AND e.kind NOT IN (SELECT value FROM json_each(:but))
    AND (:run IS NULL OR e.run IN (SELECT id FROM runs WHERE name = :run))
    AND (:task IS NULL OR e.task IN (SELECT t.id FROM runs u CROSS JOIN tasks t ON t.run = u.id AND t.name = :task))
"""
# The left joins keep SQLite from walking through anything but the stretch of the log.
_ENTRIES = """
    SELECT e.*, r.name AS run_name, k.name AS task_name FROM events e
    LEFT JOIN runs r ON r.id = e.run LEFT JOIN tasks k ON k.id = e.task
"""
_SEQS = "SELECT e.seq FROM events e"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Wanted events, and the seq up to which the log has been looked through for them."""

    entries: list[Entry]
    seen: int


class Log:
    """Reads the log of a database; remembers the names of recent trajectories, which never change."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._trajectories: dict[int, str] = {}

    async def newest(self) -> int:
        """The seq of the last committed event; 0 if there is none."""
        row = await self._reader.fetch_one("SELECT ifnull(max(seq), 0) FROM events")
        return 0 if row is None else int(row[0])

    async def page(self, after: int, wanted: Wanted = EVERYTHING, *, up_to: int, size: int = PAGE) -> Page:
        """At most `size` wanted events behind the seq `after`, none behind `up_to`, which `newest` has given.

        A page without events is not the end: that is where `seen` is `up_to`.
        """
        end = min(up_to, after + _STRETCH)
        rows = await self._reader.fetch(
            _ENTRIES + _IS_WANTED + " ORDER BY e.seq LIMIT :size",
            {**wanted.values, "start": after, "end": end, "size": size},
        )
        seen = rows[-1]["seq"] if len(rows) == size else max(end, after)
        return Page(entries=await self._in_words(rows), seen=seen)

    async def has_task(self, name: str, *, run: str | None = None) -> bool:
        """Whether there is a task of that name, in one run or in any."""
        row = await self._reader.fetch_one(
            "SELECT 1 FROM runs r CROSS JOIN tasks t ON t.run = r.id AND t.name = ? WHERE r.name = ifnull(?, r.name)",
            (name, run),
        )
        return row is not None

    async def pages(self, after: int, wanted: Wanted = EVERYTHING, *, up_to: int) -> AsyncIterator[Page]:
        """All pages behind `after`, up to and with the seq `up_to`."""
        while after < up_to:
            page = await self.page(after, wanted, up_to=up_to)
            yield page
            after = page.seen

    async def before_last(self, count: int, wanted: Wanted = EVERYTHING, *, up_to: int) -> int:
        """The seq behind which the last `count` wanted events up to `up_to` lie; 0 if there are fewer."""
        end = up_to
        while end > 0 and count > 0:
            rows = await self._reader.fetch(
                _SEQS + _IS_WANTED + " ORDER BY e.seq DESC LIMIT :count",
                {**wanted.values, "start": max(0, end - _STRETCH), "end": end, "count": count},
            )
            if len(rows) == count:
                return int(rows[-1]["seq"]) - 1
            count -= len(rows)
            end -= _STRETCH
        return max(end, 0)

    async def before_time(self, time: int, *, up_to: int) -> int:
        """The seq behind which the events from a time on lie (microseconds since 1970, UTC).

        Looks back from the end until a whole stretch is older, so a clock that once stepped back hides nothing.
        """
        first, end = up_to + 1, up_to
        while end > 0:
            start = max(0, end - _STRETCH)
            row = await self._reader.fetch_one(
                "SELECT seq FROM events WHERE seq > ? AND seq <= ? AND time >= ? ORDER BY seq LIMIT 1",
                (start, end, time),
            )
            if row is None:
                break
            first, end = int(row["seq"]), start
        return first - 1

    async def _in_words(self, rows: Collection[sqlite3.Row]) -> list[Entry]:
        told = [(row, _own_fields(row)) for row in rows]
        await self._learn_trajectories(own.get(name) for _, own in told for name in _TRAJECTORIES)
        ordinals = await self._candidate_ordinals([own[_CANDIDATE] for _, own in told if _CANDIDATE in own])
        return [
            Entry(
                seq=row["seq"],
                time=row["time"],
                kind=row["kind"],
                run=row["run_name"],
                task=row["task_name"],
                fields={name: self._in_word(name, value, ordinals) for name, value in own.items()},
            )
            for row, own in told
        ]

    def _in_word(self, name: str, value: JsonValue, ordinals: Mapping[int, int]) -> JsonValue:
        if not isinstance(value, int):
            return value
        if name in _TRAJECTORIES:
            return self._trajectories.get(value)
        return ordinals.get(value) if name == _CANDIDATE else value

    async def _learn_trajectories(self, wanted: Iterable[JsonValue]) -> None:
        unknown = {number for number in wanted if isinstance(number, int)} - self._trajectories.keys()
        if not unknown:
            return
        if len(self._trajectories) > _LABELS_KEPT:
            self._trajectories.clear()
        self._trajectories.update(await load_labels(self._reader, unknown))

    async def _candidate_ordinals(self, wanted: Sequence[JsonValue]) -> dict[int, int]:
        if not wanted:
            return {}
        rows = await self._reader.fetch(
            "SELECT id, ordinal FROM candidates WHERE id IN (SELECT value FROM json_each(?))",
            (_listed(wanted),),
        )
        return {row["id"]: row["ordinal"] for row in rows}


@contextlib.asynccontextmanager
async def watch_commits(reader: Reader) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """A question that costs next to nothing: has anyone committed since it was last asked? At first, yes."""
    async with reader.snapshot() as connection:
        last: int | None = None

        async def anything_new() -> bool:
            nonlocal last
            before = last
            # Compares a counter in shared memory; it is this connection's own, hence the connection is held.
            ((last,),) = await connection.execute_fetchall("PRAGMA data_version")
            return last != before

        yield anything_new


def time_text(time: int) -> str:
    """A time (microseconds since 1970, UTC) as ISO 8601 in UTC with all its six decimals."""
    return (_EPOCH + timedelta(microseconds=time)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _own_fields(row: sqlite3.Row) -> dict[str, JsonValue]:
    """The kind's own fields as they are stored, trajectories and candidates still numbers."""
    envelope = {name: row[name] for name in ("run", "task", "seq", "time")}
    try:
        return decode_event(row["kind"], **envelope, body=row["body"]).facts()
    except ValueError:
        # Written by a later release, or by a package that is not installed here: shown as it is.
        return {"body": orjson.loads(row["body"])}


def _listed(values: Sequence[JsonValue]) -> str:
    """Values as the JSON array that `json_each` reads: a list of any length as one bound value."""
    return orjson.dumps(values).decode()
