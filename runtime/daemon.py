"""The daemon: puts the parts of a run together, works until it is stopped or nothing is left, and takes them apart.

Parts are opened in the order in which they need each other and closed in reverse, whatever happens between.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from runtime.agents.main.agent import MainAgent, load_prompts
from runtime.bus import Bus, Retries, Watcher
from runtime.config.endpoints import Endpoint as EndpointConfig
from runtime.config.identity import digest, identity
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from runtime.executor import LocalExecutor
from runtime.handler import Handler, handler_classes, subscriptions
from runtime.models.endpoint import Endpoint
from runtime.models.journal import Models, Role
from runtime.models.settings import EndpointSettings
from runtime.rollout import Budget, Equipment
from runtime.sandbox import Limits, ProcessSandbox
from runtime.search import NoSearch, Search
from runtime.services import Services
from runtime.slots import Slots
from runtime.workspaces import WorkspaceLimits, Workspaces
from store.database import Database
from store.events import Resumed
from store.formats.task_files import TaskRecord
from store.jsontypes import JsonValue
from store.resumption import count_open_work
from store.runs import Run, create_run, find_run
from store.tasks import TaskFile, submit_task
from store.transaction import Transaction

_WRITE_TASKS = 64  # tasks submitted in one transaction, so that a long file does not hold up everyone else


class RunChangedError(ConfigError):
    """Raised when a run is to go on with settings that its evidence was not made with."""

    def __init__(self, name: str, changes: Mapping[str, tuple[JsonValue, JsonValue]]) -> None:
        self.name = name
        self.changes = changes
        lines = [f"  {key}: was {was!r}, is {now!r}" for key, (was, now) in sorted(changes.items())]
        super().__init__(
            f"run {name!r} was begun with other settings:\n" + "\n".join(lines) + "\n"
            "Set them back to go on with it, or give `run.name` another value to begin a new run."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of tasks that were handed in: taken, or known already."""

    new: int
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A run, ready to work."""

    settings: Settings
    run: Run
    database: Database
    bus: Bus
    handlers: Sequence[Handler]

    async def submit(self, records: Sequence[TaskRecord], *, priority: int = 0) -> Submitted:
        """Take tasks into the queue; those that the run has already are left alone.

        Raises:
            ChangedTaskError: a task of that name is there with other content.
            ConfigError: a task's file cannot be read.
        """
        new = 0
        for start in range(0, len(records), _WRITE_TASKS):
            batch = [(record, await _read_file(record)) for record in records[start : start + _WRITE_TASKS]]

            def write(transaction: Transaction, batch: list[tuple[TaskRecord, tuple[TaskFile, ...]]] = batch) -> int:
                return sum(
                    submit_task(transaction, run=self.run.id, record=record, files=files, priority=priority)
                    for record, files in batch
                )

            new += await self.database.write(write)
        return Submitted(new=new, known=len(records) - new)

    async def work(self, *, until_drained: bool) -> None:
        """Deliver events until cancelled or, if asked to, until nothing is owed but what was set aside."""
        self.bus.admit([self.run.id])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.bus.run, self.database, self.handlers)
            if until_drained:
                await self.bus.wait_until_drained(self.database)
                tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def open_daemon(
    settings: Settings, environ: Mapping[str, str], *, search: Search | None = None, watchers: Sequence[Watcher] = ()
) -> AsyncIterator[Daemon]:
    """Open everything that a run needs and give it out as a daemon.

    Args:
        search: instead of the backend that the settings name.
        watchers: see every event from the first on.

    Raises:
        ConfigError: a setting that the run needs is missing, or the run was begun with other settings.
        DataLockedError: another process works on the data directory.
    """
    roles = _endpoint_settings(settings, environ)
    agent = _agent(settings)
    classes = handler_classes()
    bus = Bus(
        retries=Retries(attempts=settings.bus.attempts, delay=settings.bus.delay, max_delay=settings.bus.max_delay),
        capacity=settings.bus.queue,
    )
    for watcher in watchers:
        bus.watch(watcher)
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database(settings.run.data, subscriptions=subscriptions(classes.values()), on_commit=bus.on_commit)
        )
        run = await _open_run(database, settings)
        endpoints = {role: await stack.enter_async_context(Endpoint(at)) for role, at in roles.items()}
        models = _models(settings, endpoints, database)
        sandbox = await stack.enter_async_context(ProcessSandbox())
        workspaces = Workspaces(
            settings.run.data / "workspaces",
            WorkspaceLimits(max_files=settings.workspace.max_files, max_mb=settings.workspace.max_mb),
        )
        await workspaces.clear()
        equipment = Equipment(
            agent=agent,
            budget=Budget(max_steps=settings.agent.max_steps, time_limit=settings.agent.time_limit),
            database=database,
            models=models,
            sandbox=sandbox,
            limits=_limits(settings),
            search=search or _search(settings),
            search_limit=settings.search.limit,
            workspaces=workspaces,
        )
        services = Services(
            settings=settings,
            database=database,
            models=models,
            agent=agent,
            executor=LocalExecutor(equipment, Slots(settings.run.rollouts)),
        )
        handlers = [make(services) for make in classes.values()]
        yield Daemon(settings=settings, run=run, database=database, bus=bus, handlers=handlers)


async def _open_run(database: Database, settings: Settings) -> Run:
    """The run of that name, begun now or gone on with."""
    fixed = identity(settings)
    found = await find_run(database, settings.run.name)
    if found is None:
        make = partial(create_run, name=settings.run.name, digest=digest(fixed), identity=fixed)
        return await database.write(make)
    if found.digest != digest(fixed):
        keys = found.identity.keys() | fixed.keys()
        changes = {
            key: (found.identity.get(key), fixed.get(key))
            for key in keys
            if found.identity.get(key) != fixed.get(key)
        }
        raise RunChangedError(found.name, changes)
    left = await count_open_work(database, found.id)
    if left.deliveries:
        resumed = Resumed(
            run=found.id,
            deliveries=left.deliveries,
            trajectories=left.trajectories,
            steps=left.steps,
            calls=left.calls,
        )
        await database.write(lambda transaction: transaction.publish(resumed))
    return found


def _endpoint_settings(settings: Settings, environ: Mapping[str, str]) -> dict[str, EndpointSettings]:
    """Where each role that the run asks is served."""
    roles: dict[str, EndpointConfig] = {
        "policy": settings.models.policy,
        "expert": settings.models.expert,
        "prm": settings.models.prm,
    }
    if settings.judge.method == "model":
        roles["judge"] = settings.models.judge
    missing = [
        f"models.{role}.{key}" for role, at in roles.items() for key in ("base_url", "model") if not getattr(at, key)
    ]
    if missing:
        raise ConfigError(
            f"not set: {', '.join(missing)}. Say in config.toml where each model is served "
            "(`cso init` writes one), or try `cso demo`, which needs no model."
        )
    return {
        role: EndpointSettings(
            name=role,
            base_url=at.base_url,
            api_key=environ.get(at.api_key_env) if at.api_key_env else None,
            api_key_env=at.api_key_env or None,
            timeout=at.timeout,
            deadline=at.deadline,
            attempts=at.attempts,
            max_in_flight=at.max_in_flight,
        )
        for role, at in roles.items()
    }


def _models(settings: Settings, endpoints: Mapping[str, Endpoint], database: Database) -> Models:
    def role(name: str, endpoint: Endpoint) -> Role:
        at: EndpointConfig = getattr(settings.models, name)
        return Role(
            endpoint=endpoint,
            model=at.model,
            temperature=at.temperature,
            top_p=at.top_p,
            max_tokens=at.max_tokens,
            send_seed=at.send_seed,
        )

    return Models(
        {name: role(name, endpoint) for name, endpoint in endpoints.items()},
        database=database,
        seed=settings.run.seed,
        trace_headers=settings.models.trace_headers,
    )


def _agent(settings: Settings) -> MainAgent:
    if settings.agent.name != "main":
        raise ConfigError(f"agent.name: there is no agent named {settings.agent.name!r}; there is main")
    return MainAgent(
        recent_steps=settings.agent.recent_steps,
        observation_chars=settings.agent.observation_chars,
        prompts=load_prompts(settings.agent.prompts),
    )


def _search(settings: Settings) -> Search:
    if settings.search.backend != "none":
        raise ConfigError(f"search.backend: there is no backend named {settings.search.backend!r}; there is none")
    return NoSearch()


def _limits(settings: Settings) -> Limits:
    return Limits(
        timeout=settings.sandbox.timeout,
        memory_mb=settings.sandbox.memory_mb,
        output_bytes=settings.sandbox.output_bytes,
        file_mb=settings.sandbox.file_mb,
        processes=settings.sandbox.processes,
        open_files=settings.sandbox.open_files,
    )


async def _read_file(record: TaskRecord) -> tuple[TaskFile, ...]:
    if record.file is None:
        return ()
    path = Path(record.file)
    try:
        content = await anyio.Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"task {record.name!r}: its file {path} cannot be read: {error.strerror}") from error
    return (TaskFile(name=path.name, content=content),)
