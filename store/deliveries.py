"""Deliveries: which events are still owed to which handlers. One that is done leaves the table."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import orjson

from store.database import Reader
from store.events import DeliveryFailed, Event, TaskCancelled, TaskFinished, decode_event
from store.transaction import Transaction
from store.writer import Write


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event for a handler, and how often handing it over has failed."""

    handler: str
    event: Event
    attempts: int = 0


async def load_due(
    reader: Reader, handler: str, *, runs: Collection[int], now: int, limit: int, held: Collection[int]
) -> list[Delivery]:
    """The deliveries that a handler may be given now: higher priority first, then older first.

    Args:
        runs: those whose deliveries are wanted.
        now: microseconds since 1970, UTC; deliveries put off beyond it are left out.
        held: events whose deliveries the caller has already.
    """
    rows = await reader.fetch(
        "SELECT d.attempts, e.* FROM deliveries d JOIN events e ON e.seq = d.event"
        " WHERE d.handler = ? AND d.dead = 0 AND d.due <= ? AND d.run IN (SELECT value FROM json_each(?))"
        " ORDER BY d.priority DESC, d.event LIMIT ?",
        (handler, now, _listed(runs), limit + len(held)),
    )
    found = [
        Delivery(
            handler,
            decode_event(
                row["kind"], run=row["run"], task=row["task"], seq=row["seq"], time=row["time"], body=row["body"]
            ),
            row["attempts"],
        )
        for row in rows
        if row["seq"] not in held
    ]
    return found[:limit]


async def next_due(reader: Reader, handler: str, *, after: int) -> int | None:
    """When the next delivery that was put off beyond `after` comes due, if there is one."""
    row = await reader.fetch_one(
        "SELECT min(due) FROM deliveries WHERE handler = ? AND dead = 0 AND due > ?", (handler, after)
    )
    return None if row is None else row[0]


async def count_owed(reader: Reader, runs: Collection[int]) -> int:
    """How many deliveries of some runs are open and not set aside."""
    row = await reader.fetch_one(
        "SELECT count(*) FROM deliveries WHERE dead = 0 AND run IN (SELECT value FROM json_each(?))", (_listed(runs),)
    )
    return 0 if row is None else int(row[0])


def complete_delivery(transaction: Transaction, delivery: Delivery, result: Write[None]) -> None:
    """Mark a delivery done and commit its result with it; when nothing else of its task is owed, that is finished.

    A delivery that is not owed any more, because it was done or cancelled meanwhile, has no result.
    """
    event = delivery.event
    done = transaction.execute(
        "DELETE FROM deliveries WHERE handler = ? AND event = ?", (delivery.handler, event.seq)
    )
    if done.rowcount == 0:
        return
    result(transaction)
    if event.task is None:
        return
    if transaction.execute("SELECT 1 FROM deliveries WHERE task = ? LIMIT 1", (event.task,)).fetchone() is None:
        transaction.publish(TaskFinished(run=event.run, task=event.task))


def fail_delivery(transaction: Transaction, delivery: Delivery, *, error: str, due: int | None) -> None:
    """Record a failed attempt: tried again at `due` (microseconds), or set aside when that is None."""
    transaction.execute(
        "UPDATE deliveries SET attempts = attempts + 1, due = ifnull(?, due), dead = ?, error = ?"
        " WHERE handler = ? AND event = ?",
        (due, due is None, error, delivery.handler, delivery.event.seq),
    )
    transaction.publish(
        DeliveryFailed(
            run=delivery.event.run,
            task=delivery.event.task,
            handler=delivery.handler,
            event=delivery.event.seq,
            attempt=delivery.attempts + 1,
            dead=due is None,
            error=error,
        )
    )


def revive_deliveries(transaction: Transaction, *, run: int | None = None, task: int | None = None) -> int:
    """Put deliveries that were set aside back into the queue, their attempts forgotten; how many they were.

    Args:
        run: only those of this run.
        task: only those of this task.
    """
    cursor = transaction.execute(
        "UPDATE deliveries SET dead = 0, attempts = 0, due = 0, error = NULL"
        " WHERE dead = 1 AND ifnull(?, run) = run AND (? IS NULL OR task = ?)",
        (run, task, task),
    )
    return cursor.rowcount


def cancel_deliveries(transaction: Transaction, *, run: int, task: int) -> int:
    """Owe nothing of a task any more and tell of it; how many deliveries were open. Evidence that is in stays."""
    cursor = transaction.execute("DELETE FROM deliveries WHERE task = ?", (task,))
    if cursor.rowcount:
        transaction.publish(TaskCancelled(run=run, task=task, deliveries=cursor.rowcount))
    return cursor.rowcount


def _listed(runs: Collection[int]) -> str:
    """Run numbers as the JSON array that `json_each` reads: a list of any length as one bound value."""
    return orjson.dumps(list(runs)).decode()
