"""Deliveries: which events are still owed to which handlers. One that is done leaves the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from store.database import Reader
from store.events import DeliveryFailed, Event, TaskFinished, decode_event
from store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event for a handler, and how often handing it over has failed."""

    handler: str
    event: Event
    attempts: int = 0


async def load_due(reader: Reader, handler: str, *, now: int, limit: int, held: Sequence[int]) -> list[Delivery]:
    """The deliveries that a handler may be given now: higher priority first, then older first.

    Args:
        now: microseconds since 1970, UTC; deliveries put off beyond it are left out.
        held: events whose deliveries the caller has already.
    """
    rows = await reader.fetch(
        "SELECT d.attempts, e.* FROM deliveries d JOIN events e ON e.seq = d.event"
        " WHERE d.handler = ? AND d.dead = 0 AND d.due <= ? ORDER BY d.priority DESC, d.event LIMIT ?",
        (handler, now, limit + len(held)),
    )
    known = set(held)
    found = [
        Delivery(
            handler,
            decode_event(
                row["kind"], run=row["run"], task=row["task"], seq=row["seq"], time=row["time"], body=row["body"]
            ),
            row["attempts"],
        )
        for row in rows
        if row["seq"] not in known
    ]
    return found[:limit]


async def next_due(reader: Reader, handler: str, *, after: int) -> int | None:
    """When the next delivery that was put off beyond `after` comes due, if there is one."""
    row = await reader.fetch_one(
        "SELECT min(due) FROM deliveries WHERE handler = ? AND dead = 0 AND due > ?", (handler, after)
    )
    return None if row is None else row[0]


async def count_owed(reader: Reader) -> int:
    """How many deliveries are open and not set aside."""
    row = await reader.fetch_one("SELECT count(*) FROM deliveries WHERE dead = 0")
    return 0 if row is None else int(row[0])


def finish_delivery(transaction: Transaction, delivery: Delivery) -> None:
    """Mark a delivery done; when nothing else of its task is owed, the task is finished."""
    event = delivery.event
    transaction.execute("DELETE FROM deliveries WHERE handler = ? AND event = ?", (delivery.handler, event.seq))
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


def revive_deliveries(transaction: Transaction) -> int:
    """Put every delivery that was set aside back into the queue, with its attempts forgotten; how many they were."""
    cursor = transaction.execute("UPDATE deliveries SET dead = 0, attempts = 0, due = 0 WHERE dead = 1")
    return cursor.rowcount
