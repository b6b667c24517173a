"""The simulated server's own record of what it was asked: the other side of the story, for tests.

Owns the list of requests in the order of their arrival, the counts of what is in flight, and the record file. A line
of the file is written in one go when its request is over, so a killed client leaves whole lines only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import orjson

TRACE_HEADERS = ("role", "module", "run", "task", "trajectory", "step")


@dataclass(slots=True)
class Entry:
    """One request: when it came and went (monotonic seconds), and how it ended.

    `attempt` counts requests of the same content from 1. `status` is None while the request is in flight, 0 when the
    connection was reset, 499 when the client went away.
    """

    number: int
    digest: str
    attempt: int
    model: str
    role: str
    headers: Mapping[str, str]
    body: bytes
    started: float
    is_json: bool = True
    status: int | None = None
    fault: str | None = None
    ended: float | None = None

    def line(self) -> bytes:
        """Return the entry as a line of JSON."""
        fields = {
            "number": self.number,
            "digest": self.digest,
            "attempt": self.attempt,
            "model": self.model,
            "headers": self.headers,
            # The body as it came, byte for byte: re-encoding would cost more than the rest of the line.
            "body": orjson.Fragment(self.body) if self.is_json else None,
            "status": self.status,
            "fault": self.fault,
            "started": self.started,
            "ended": self.ended,
        }
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(slots=True)
class Traffic:
    """Counts of calls: since the start, in flight now, and the most ever in flight; `""` stands for all roles."""

    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    def enter(self, role: str) -> None:
        """Count a call that comes in."""
        for name in (role, ""):
            self.calls[name] += 1
            self.in_flight[name] += 1
            self.most[name] = max(self.most[name], self.in_flight[name])

    def leave(self, role: str, status: int) -> None:
        """Count a call that is over."""
        self.statuses[str(status)] += 1
        for name in (role, ""):
            self.in_flight[name] -= 1

    def figures(self) -> dict[str, object]:
        """Return the counts by name."""
        return {
            "calls": _by_role(self.calls),
            "in_flight": _by_role(self.in_flight),
            "max_in_flight": _by_role(self.most),
            "statuses": dict(self.statuses),
        }


def _by_role(counts: Counter[str]) -> dict[str, int]:
    return {role or "all": count for role, count in sorted(counts.items())}


class Record:
    """All requests so far; kept in memory (unless `keep` is false) and appended to a file where one is given."""

    def __init__(self, path: Path | None = None, *, keep: bool = True) -> None:
        self.traffic = Traffic()
        self.entries: list[Entry] = []
        self._keep = keep
        self._attempts: Counter[str] = Counter()
        self._count = 0
        # Appending without a buffer: what was written is there whatever happens to this process.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if path else None

    def open(
        self,
        *,
        model: str,
        role: str,
        headers: Mapping[str, str],
        body: bytes,
        is_json: bool,
        now: float,
    ) -> Entry:
        """Enter a request that has come in; a content is known again by its bytes."""
        digest = blake2b(body, digest_size=16).hexdigest()
        self._attempts[digest] += 1
        entry = Entry(
            number=self._count,
            digest=digest,
            attempt=self._attempts[digest],
            model=model,
            role=role,
            headers=headers,
            body=body,
            started=now,
            is_json=is_json,
        )
        self._count += 1
        if self._keep:
            self.entries.append(entry)
        self.traffic.enter(role)
        return entry

    def close(self, entry: Entry, *, status: int, now: float) -> None:
        """Enter how a request ended."""
        entry.status, entry.ended = status, now
        self.traffic.leave(entry.role, status)
        if self._file is not None:
            os.write(self._file, entry.line())

    def lines(self) -> bytes:
        """Return all kept entries as JSON lines, in order of arrival."""
        return b"".join(entry.line() for entry in self.entries)

    def shut(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
