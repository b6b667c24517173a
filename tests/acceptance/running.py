"""Running the whole method in this process: a real daemon against models that are simulated or scripted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio

from runtime.bus import Watcher
from runtime.config.settings import Settings
from runtime.daemon import Daemon, open_daemon
from runtime.search import Search
from runtime.simulation.behaviour import Behaviour
from runtime.simulation.record import Entry
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.standins import Habits
from runtime.simulation.world import World, write_tasks
from store.events import Event
from store.formats.task_files import TaskRecord, read_tasks
from store.summary import Summary, summarise

DEADLINE_S = 90
ROLES = ("policy", "expert", "prm", "judge")


def settings_for(url: str, data: Path, changes: Mapping[str, object] | None = None) -> Settings:
    """Settings of a quick run against one server; `changes` maps dotted keys to values."""
    values: dict[str, object] = {
        "run.name": "test",
        "run.data": data,
        "run.rollouts": 6,
        # A failed delivery comes again at once, and an endpoint gives up at once: what is tested is who tries again.
        "bus.delay": 0.01,
        "bus.max_delay": 0.05,
    }
    for role in ROLES:
        values |= {
            f"models.{role}.base_url": url,
            f"models.{role}.model": f"sim-{role}",
            f"models.{role}.api_key_env": "",
            f"models.{role}.attempts": 1,
            f"models.{role}.timeout": 30.0,
            f"models.{role}.deadline": 30.0,
        }
    tree: dict[str, object] = {}
    for key, value in {**values, **(changes or {})}.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            inner = place.setdefault(section, {})
            assert isinstance(inner, dict)
            place = inner
        place[name] = value
    return Settings.model_validate(tree)


async def work(
    settings: Settings,
    records: Sequence[TaskRecord],
    *,
    search: Search | None = None,
    watchers: Sequence[Watcher] = (),
    deadline: float = DEADLINE_S,
) -> Summary:
    """Submit tasks and work until nothing is owed but what was set aside; the run in numbers."""
    with anyio.fail_after(deadline):
        async with open_daemon(settings, {}, search=search, watchers=watchers) as daemon:
            await daemon.control.submit(records)
            await daemon.work(until_drained=True)
            return await summarise(daemon.database, daemon.run)


@dataclass(slots=True)
class Seen:
    """The events of a daemon at work, to be waited for."""

    events: list[Event] = field(default_factory=list)
    moved: anyio.Event = field(default_factory=anyio.Event)

    def note(self, event: Event) -> None:
        """Watch the bus."""
        self.events.append(event)
        self.moved.set()
        self.moved = anyio.Event()

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    async def until(self, kind: type[Event], number: int) -> None:
        """Wait until so many of a kind have come; set your own deadline."""
        while self.count(kind) < number:
            await self.moved.wait()


Working = tuple[Daemon, Seen]


@contextlib.asynccontextmanager
async def daemon_at_work(settings: Settings, world: World) -> AsyncIterator[Working]:
    """A daemon that works on a world's tasks while the block runs, as `cso serve` does, within `DEADLINE_S`."""
    seen = Seen()
    with anyio.fail_after(DEADLINE_S):
        async with open_daemon(settings, {}, search=WorldSearch(world), watchers=[seen.note]) as daemon:
            await daemon.control.submit(records_of(world, settings.run.data))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(daemon.work, until_drained=False))
                yield daemon, seen
                tasks.cancel_scope.cancel()


def records_of(world: World, data: Path) -> list[TaskRecord]:
    """The world's tasks as a user hands them in: through a task file."""
    return list(read_tasks(write_tasks(world, data / "tasks"), strict=True).tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run of a world that has come to its end: what the server saw and what the daemon did."""

    world: World
    data: Path
    server: SimulationServer
    summary: Summary
    events: list[Event]

    @property
    def requests(self) -> list[Entry]:
        """The server's own record, in the order of arrival."""
        return self.server.record.entries


@contextlib.asynccontextmanager
async def finished_run(
    world: World,
    data: Path,
    *,
    habits: Habits | None = None,
    behaviour: Behaviour | None = None,
    changes: Mapping[str, object] | None = None,
) -> AsyncIterator[Finished]:
    """A run of a world from beginning to end; the server still answers while the block runs."""
    events: list[Event] = []
    async with SimulationServer(world, habits=habits, behaviour=behaviour) as server:
        summary = await work(
            settings_for(server.base_url, data, changes),
            records_of(world, data),
            search=WorldSearch(world),
            watchers=[events.append],
        )
        yield Finished(world=world, data=data, server=server, summary=summary, events=events)
