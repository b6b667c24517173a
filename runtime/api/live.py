"""What only the daemon itself knows: what it is doing at this moment. The rest of the status is in the database."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

import orjson
from anyio.to_thread import run_sync

from runtime.api.counts import Counts
from runtime.clock import loop_time
from runtime.daemon import Daemon
from runtime.lag import LagMeter
from runtime.machine import described
from runtime.models.pool import Pool
from runtime.spool import Spool, rejected_files
from store.database import Reader
from store.events import Event
from store.jsontypes import JsonValue
from store.runs import list_runs

_NAMED = 10
STATES = ("working", "waiting", "stopping")


@dataclass(slots=True, kw_only=True)
class Live:
    """A daemon at work, with its spool if it has one, and what has been seen of it since it started."""

    daemon: Daemon
    spool: Spool | None = None
    lag: LagMeter = field(default_factory=LagMeter)
    counts: Counts = field(default_factory=Counts)
    url: str = ""
    stopping: bool = False
    started: float = field(default_factory=time.time)

    @property
    def state(self) -> str:
        """In one word: working, waiting for the disk, or stopping."""
        if self.stopping:
            return "stopping"
        return "waiting" if self.daemon.database.trouble else "working"

    def note(self, event: Event) -> None:
        """Watch the bus."""
        self.counts.note(event)


async def live_status(live: Live) -> dict[str, JsonValue]:
    """What `GET /v1/daemon` tells; ages in seconds, times in seconds since 1970, UTC."""
    daemon = live.daemon
    runs = await list_runs(daemon.database)
    names = {run.id: run.name for run in runs}
    lag = live.lag.read()
    return {
        "pid": os.getpid(),
        "url": live.url,
        "started": live.started,
        "state": live.state,
        "trouble": described(daemon.database.trouble) if daemon.database.trouble else None,
        "data": str(daemon.settings.run.data.absolute()),
        "every_run": daemon.every_run,
        "serving": [run.name for run in runs if run.id in daemon.bus.runs],
        "held": [run.name for run in runs if run.id in daemon.bus.held],
        "paused": [run.name for run in runs if run.paused],
        "rollouts": {"in_use": daemon.slots.in_use, "limit": daemon.slots.total},
        "at_work": await _at_work(daemon),
        "endpoints": {role: _endpoint(pool) for role, pool in daemon.endpoints.items()},
        "spool": None if live.spool is None else await _spool(live.spool),
        "resumed": [{"run": names.get(one.run), **one.facts()} for one in daemon.resumed],
        "loop_lag": None if lag is None else asdict(lag),
    }


async def _spool(spool: Spool) -> dict[str, JsonValue]:
    """The folder from which task files are taken, how many were rejected, and what lies there that is not taken."""
    rejected = await run_sync(rejected_files, spool.folder)
    return {"folder": str(spool.folder.absolute()), "rejected": rejected, **asdict(spool.seen)}


def _endpoint(pool: Pool) -> dict[str, JsonValue]:
    """What a role's endpoint is doing: the sums, and each replica where there are several."""
    facts: dict[str, JsonValue] = asdict(pool.snapshot())
    replicas = pool.replicas()
    if len(replicas) > 1:
        facts["replicas"] = [asdict(replica) for replica in replicas]
    return facts


async def _at_work(daemon: Daemon) -> dict[str, JsonValue]:
    """Deliveries in work: how many by handler, and the oldest of them with their tasks."""
    work = sorted(daemon.bus.at_work, key=lambda one: one.since)
    now = loop_time()
    oldest = work[:_NAMED]
    names = await _task_names(daemon.database, [one.event.task for one in oldest if one.event.task is not None])
    return {
        "handlers": dict(Counter(one.handler for one in work)),
        "oldest": [
            {
                "handler": one.handler,
                "event": one.event.seq,
                "task": names.get(one.event.task or 0),
                "seconds": round(now - one.since, 1),
            }
            for one in oldest
        ],
    }


async def _task_names(reader: Reader, tasks: list[int]) -> dict[int, str]:
    rows = await reader.fetch(
        "SELECT id, name FROM tasks WHERE id IN (SELECT value FROM json_each(?))", (orjson.dumps(tasks).decode(),)
    )
    return {row["id"]: row["name"] for row in rows}
