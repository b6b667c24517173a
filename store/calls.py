"""The journal: every model reply that was paid for, under the place where it was asked.

A reply is committed before anything acts on it. Work that is done again finds it there by place and request digest
and pays nothing; another request from the same place is another entry.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import orjson

from store.blobs import decode_text
from store.database import Reader
from store.events import CallCompleted
from store.messages import Message
from store.requests import decode_request, encode_request, referenced_blobs
from store.spending import add_spending
from store.transaction import Transaction

WHOLE_TRAJECTORY = -1  # the step of calls that belong to none: the end, the direct answer, the judge
FILTERED = "content_filter"  # the finish reason of a call to which a provider's filter let no reply through
_REPLIES = "SELECT c.*, b.data FROM calls c JOIN blobs b ON b.id = c.reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model call is made: `ordinal` counts calls of one module and role within a step from 0.

    A call that is only counted, and made again when the work is done again, has a negative one.
    """

    trajectory: int
    step: int
    role: str
    module: str
    ordinal: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A reply as the journal keeps it. Tokens are counts of the endpoint; latency is in seconds.

    Where `finish_reason` is FILTERED, `content` is what the endpoint said instead of a reply.
    `cost` is in millionths of the currency of the prices, as computed when the reply came; None: not known.
    """

    place: Place
    digest: bytes
    content: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    latency: float
    attempts: int
    endpoint: str
    cost: int | None = None


@dataclass(frozen=True, slots=True)
class JournalledReply:
    """What later work needs of a reply: its row, its text, and the seconds that the endpoint took for it.

    `filtered`: there was none, because a provider's filter let none through; `content` is what it said of that.
    """

    call: int
    content: str
    latency: float
    filtered: bool = False


def record_call(
    transaction: Transaction, *, run: int, task: int, messages: tuple[Message, ...], record: CallRecord
) -> JournalledReply:
    """Commit a reply and tell of it; where the place has this very call already, that stays and is returned."""
    blobs, place = transaction.blobs, record.place
    where = (place.trajectory, place.step, place.role, place.module, place.ordinal, record.digest)
    added = transaction.execute(
        "INSERT INTO calls (trajectory, step, role, module, ordinal, digest, request, reply, reasoning,"
        " finish_reason, prompt_tokens, completion_tokens, cached_tokens, latency, attempts, endpoint, cost)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            *where,
            encode_request(messages, blobs.text),
            blobs.text(record.content),
            blobs.text(record.reasoning) if record.reasoning else None,
            record.finish_reason,
            record.prompt_tokens,
            record.completion_tokens,
            record.cached_tokens,
            record.latency,
            record.attempts,
            record.endpoint,
            record.cost,
        ),
    )
    if not added.rowcount or added.lastrowid is None:
        known = transaction.execute(
            f"{_REPLIES} WHERE c.trajectory = ? AND c.step = ? AND c.role = ? AND c.module = ? AND c.ordinal = ?"
            " AND c.digest = ?",
            where,
        )
        return _reply_from_row(known.fetchone())
    add_spending(
        transaction,
        run=run,
        trajectory=place.trajectory,
        role=place.role,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cached_tokens=record.cached_tokens,
        cost=record.cost,
    )
    transaction.publish(
        CallCompleted(
            run=run,
            task=task,
            trajectory=place.trajectory,
            step=place.step,
            role=place.role,
            module=place.module,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            cost=record.cost,
        )
    )
    return JournalledReply(added.lastrowid, record.content, record.latency, record.finish_reason == FILTERED)


async def load_journal(reader: Reader, trajectory: int) -> dict[tuple[Place, bytes], JournalledReply]:
    """All replies of a trajectory by place and request digest."""
    rows = await reader.fetch(f"{_REPLIES} WHERE c.trajectory = ?", (trajectory,))
    return {(_place_from_row(row), row["digest"]): _reply_from_row(row) for row in rows}


async def load_request(reader: Reader, call: int) -> tuple[Message, ...]:
    """The messages of a journalled call, as the endpoint received them.

    Raises:
        LookupError: there is no such call.
    """
    row = await reader.fetch_one("SELECT request FROM calls WHERE id = ?", (call,))
    if row is None:
        raise LookupError(f"there is no call {call}")
    numbers = orjson.dumps(sorted(referenced_blobs(row["request"]))).decode()
    blobs = await reader.fetch("SELECT id, data FROM blobs WHERE id IN (SELECT value FROM json_each(?))", (numbers,))
    return decode_request(row["request"], {blob["id"]: decode_text(blob["data"]) for blob in blobs})


def _place_from_row(row: sqlite3.Row) -> Place:
    return Place(
        trajectory=row["trajectory"],
        step=row["step"],
        role=row["role"],
        module=row["module"],
        ordinal=row["ordinal"],
    )


def _reply_from_row(row: sqlite3.Row) -> JournalledReply:
    return JournalledReply(row["id"], decode_text(row["data"]), row["latency"], row["finish_reason"] == FILTERED)
