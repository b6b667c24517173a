"""Deliveries: which events are still owed to which handlers. One that is done leaves the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import orjson

from store.database import Reader
from store.events import BudgetSpent, DeliveryFailed, Event, TaskCancelled, TaskFinished, decode_event
from store.transaction import Transaction, now_us
from store.writer import Write

# In the column `dead`, beside 0 for open and 1 for set aside.
_AT_REST = 2


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event for a handler, how often handing it over has failed, and since when (microseconds since 1970, UTC)."""

    handler: str
    event: Event
    attempts: int = 0
    failing: int | None = None


async def load_due(
    reader: Reader, handler: str, *, runs: Collection[int], now: int, horizon: int, limit: int, held: Collection[int]
) -> list[Delivery]:
    """The deliveries that a handler may be given now: higher priority first, then older first.

    Args:
        runs: those whose deliveries are wanted.
        now: microseconds since 1970, UTC; deliveries put off beyond it are left out.
        horizon: the latest time to which anything is put off, in the same unit; what is put off beyond it was so
            by a clock that has been set back since, and is given now.
        held: events whose deliveries the caller has already.
    """
    rows = await reader.fetch(
        "SELECT d.attempts, d.failing, d.priority, e.* FROM deliveries d JOIN events e ON e.seq = d.event"
        " WHERE d.handler = ? AND d.dead = 0 AND (d.due <= ? OR d.due > ?)"
        " AND d.run IN (SELECT value FROM json_each(?)) ORDER BY d.priority DESC, d.event LIMIT ?",
        (handler, now, horizon, _listed(runs), limit + len(held)),
    )
    found = [
        Delivery(
            handler,
            decode_event(
                row["kind"],
                run=row["run"],
                task=row["task"],
                seq=row["seq"],
                time=row["time"],
                body=row["body"],
                priority=row["priority"],
            ),
            row["attempts"],
            row["failing"],
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


async def count_owed(reader: Reader, runs: Collection[int]) -> Counter[str]:
    """How many deliveries of some runs are open and not set aside, by handler."""
    rows = await reader.fetch(
        "SELECT handler, count(*) FROM deliveries WHERE dead = 0 AND run IN (SELECT value FROM json_each(?))"
        " GROUP BY handler",
        (_listed(runs),),
    )
    return Counter(dict(map(tuple, rows)))


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
        "UPDATE deliveries SET attempts = attempts + 1, failing = ifnull(failing, ?), due = ifnull(?, due), dead = ?,"
        " error = ? WHERE handler = ? AND event = ?",
        (now_us(), due, due is None, error, delivery.handler, delivery.event.seq),
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


def rest_delivery(transaction: Transaction, delivery: Delivery, why: BudgetSpent) -> None:
    """Hand a delivery out no more until `wake_deliveries`, and tell why if it is the first of its task that rests.

    It stays owed, and no attempt is counted.
    """
    resting = transaction.execute(
        "SELECT 1 FROM deliveries WHERE task = ? AND dead = ? LIMIT 1", (delivery.event.task, _AT_REST)
    ).fetchone()
    if resting is None:
        transaction.publish(why)
    transaction.execute(
        "UPDATE deliveries SET dead = ? WHERE handler = ? AND event = ? AND dead = 0",
        (_AT_REST, delivery.handler, delivery.event.seq),
    )


def wake_deliveries(transaction: Transaction, *, run: int, but: Collection[int]) -> int:
    """Hand out again what rests of a run, but for some tasks; how many deliveries."""
    cursor = transaction.execute(
        # The time in which it rested is none in which it failed.
        "UPDATE deliveries SET dead = 0, failing = NULL"
        " WHERE run = ? AND dead = ? AND task NOT IN (SELECT value FROM json_each(?))",
        (run, _AT_REST, _listed(but)),
    )
    return cursor.rowcount


def revive_deliveries(transaction: Transaction, *, run: int | None = None, task: int | None = None) -> int:
    """Put deliveries that were set aside back into the queue, their attempts forgotten; how many they were.

    Args:
        run: only those of this run.
        task: only those of this task.
    """
    cursor = transaction.execute(
        "UPDATE deliveries SET dead = 0, attempts = 0, failing = NULL, due = 0, error = NULL"
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


def _listed(numbers: Collection[int]) -> str:
    """Numbers as the JSON array that `json_each` reads: a list of any length as one bound value."""
    return orjson.dumps(list(numbers)).decode()
