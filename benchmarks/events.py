"""How fast durable events go through store and bus to a handler, beside what SQLite does alone on the same disk.

Each event is published in a write of its own, committed with `synchronous=FULL` in a group with whatever else waits,
handed to a handler, and completed by the handler's own write. Publishing, delivery and completion share the process.

    python -m benchmarks.events [--json] [--check]
"""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel

from benchmarks.figures import ROUNDS, Figure, percentile, run_alone
from runtime.bus import Bus, Retries
from runtime.config.settings import Settings
from runtime.handler import Result, nothing_more
from store.database import Database
from store.events import Event, StepCompleted
from store.formats.task_files import TaskRecord
from store.runs import create_run
from store.tasks import submit_task
from store.transaction import Transaction

EVENTS = 40_000
PUBLISHERS = 256
TASKS = 16
RATE = 500
RATE_SECONDS = 8.0
RAW_COMMITS = 2_000
RAW_GROUP = 64


class Sink:
    """A handler that notes when it gets each event and has nothing else to do."""

    name = "sink"
    consumes: tuple[type[Event], ...] = (StepCompleted,)
    workers = PUBLISHERS

    def __init__(self) -> None:
        self.reached: dict[int, float] = {}

    async def handle(self, event: Event) -> Result:
        """Note the time."""
        assert isinstance(event, StepCompleted)  # the only kind that it consumes
        self.reached[event.step] = time.perf_counter()
        return nothing_more


class Bench:
    """A database with a run and some tasks, and the bus that serves a sink."""

    def __init__(self, database: Database, sink: Sink) -> None:
        self.database = database
        self.sink = sink
        self.published: dict[int, float] = {}
        self._numbers = itertools.count()

    async def publish(self) -> None:
        """Publish one event and wait until it is committed."""
        number = next(self._numbers)
        event = StepCompleted(run=1, task=1 + number % TASKS, trajectory=1, step=number, failed=False)
        self.published[number] = time.perf_counter()
        await self.database.write(lambda transaction: transaction.publish(event))

    async def finish(self) -> None:
        """Wait until every event has been handled and its completion committed."""
        # The database is what is waited for, and it has no event for us.
        while len(self.sink.reached) < len(self.published) or await self.database.write(_owed) > 0:  # noqa: ASYNC110
            await anyio.sleep(0.001)

    def delays(self) -> list[float]:
        """Seconds from publishing to the handler, of each event."""
        return [self.sink.reached[number] - at for number, at in self.published.items()]


def _owed(transaction: Transaction) -> int:
    return int(transaction.execute("SELECT count(*) FROM deliveries").fetchone()[0])


def _prepare(transaction: Transaction) -> None:
    run = create_run(transaction, name="benchmark", digest="", identity={})
    for number in range(TASKS):
        submit_task(transaction, run=run.id, record=TaskRecord(f"task-{number}", "Why?", "Because.", None, {}))


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Bench]:
    """The bench, with the bus at work."""
    sink = Sink()
    bus = Bus(retries=Retries(), capacity=Settings().bus.queue)
    subscriptions = {StepCompleted.kind: [sink.name]}
    async with Database(folder, subscriptions=subscriptions, on_commit=bus.on_commit) as database:
        await database.write(_prepare)
        bus.admit([1])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.run, database, [sink])
            yield Bench(database, sink)
            tasks.cancel_scope.cancel()


async def throughput(folder: Path) -> float:
    """Events a second that were published, delivered and completed, published one by one by many at once."""
    async with opened(folder) as bench:

        async def publisher() -> None:
            for _ in range(EVENTS // PUBLISHERS):
                await bench.publish()

        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(PUBLISHERS):
                tasks.start_soon(publisher)
        await bench.finish()
        rate = len(bench.published) / (time.perf_counter() - started)
    return rate


async def latency(folder: Path) -> list[float]:
    """Seconds from publishing to the handler at a fixed rate, which does not wait for those before."""
    async with opened(folder) as bench, anyio.create_task_group() as tasks:
        started = time.perf_counter()
        for number in range(int(RATE * RATE_SECONDS)):
            await anyio.sleep(max(0.0, started + number / RATE - time.perf_counter()))
            tasks.start_soon(bench.publish)
        await anyio.lowlevel.checkpoint()
        await bench.finish()
        delays = bench.delays()
    return delays


@contextmanager
def _raw(folder: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(folder / "raw.sqlite3", isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS rows (seq INTEGER PRIMARY KEY, time INTEGER, kind TEXT, run INTEGER,"
            " task INTEGER, body BLOB)"
        )
        yield connection
    finally:
        connection.close()


def raw_rows(folder: Path, group: int) -> float:
    """Rows of an event's size that SQLite inserts a second, so many in each commit, with nothing around it."""
    body = b'[1,7,false,"of the size of a typical event of ours"]'
    with _raw(folder) as connection:
        started = time.perf_counter()
        for number in range(RAW_COMMITS):
            connection.execute("BEGIN IMMEDIATE")
            for _ in range(group):
                connection.execute(
                    "INSERT INTO rows (time, kind, run, task, body) VALUES (?, ?, ?, ?, ?)",
                    (number, "step-completed", 1, 1, body),
                )
            connection.execute("COMMIT")
        return RAW_COMMITS * group / (time.perf_counter() - started)


def measure() -> list[Figure]:
    """All figures of this benchmark."""
    with tempfile.TemporaryDirectory(prefix="cso-bench-") as name:
        folder = Path(name)
        single, grouped = raw_rows(folder, 1), raw_rows(folder, RAW_GROUP)
        rate = max(anyio.run(partial(throughput, folder / f"throughput {one}")) for one in range(ROUNDS))
        delays = [1e3 * delay for delay in anyio.run(partial(latency, folder / "latency"))]
    return [
        Figure(name="SQLite alone, one row a commit", value=single, unit="/s"),
        Figure(name=f"SQLite alone, {RAW_GROUP} rows a commit", value=grouped, unit="/s"),
        Figure(
            name="durable events, publish to completion",
            value=rate,
            unit="/s",
            against="one row a commit",
            limit=single,
            at_least=8_000,
        ),
        Figure(name=f"publish to handler p50, {RATE} events/s", value=percentile(delays, 50), unit="ms"),
        Figure(
            name=f"publish to handler p99, {RATE} events/s", value=percentile(delays, 99), unit="ms", at_most=25.0
        ),
        Figure(name=f"publish to handler max, {RATE} events/s", value=max(delays), unit="ms"),
    ]


if __name__ == "__main__":
    run_alone(measure, __doc__)
