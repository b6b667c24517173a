"""The daemon: puts the parts of a run together, works until it is stopped or nothing is left, and takes them apart.

Parts are opened in the order in which they need each other and closed in reverse, whatever happens between.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from runtime.agents.main.agent import MainAgent, load_prompts
from runtime.bus import Bus, Retries, Watcher
from runtime.clock import loop_time
from runtime.config.settings import Settings
from runtime.control import LocalControl
from runtime.errors import ConfigError
from runtime.eventlog import EVENTS_FILE, EventFiles, EventLog
from runtime.executor import LocalExecutor
from runtime.handler import HandlerClass, handler_classes, subscriptions
from runtime.logs import get_logger
from runtime.machine import raise_descriptor_limit, tell_of_trouble, watch_clock
from runtime.models.journal import Models
from runtime.models.pool import Pool
from runtime.notice import read_notice
from runtime.purse import caps, open_budget, price_list, wake
from runtime.redaction import configured_secrets, redactor
from runtime.roles import make_roles, replica_settings
from runtime.rollout import Budget, Equipment
from runtime.runs import open_run, tell_of_resumption
from runtime.sandbox import Limits, ProcessSandbox
from runtime.search import NoSearch, Search
from runtime.services import Services
from runtime.slots import Slots
from runtime.stopping import LAST_WORDS_S
from runtime.workspaces import WorkspaceLimits, Workspaces, workspaces_folder
from store.database import Database
from store.deliveries import count_owed
from store.errors import DataLockedError, StorageTroubleError
from store.events import Resumed
from store.runs import Run, list_runs, read_runs
from store.spending import roles_heard

_LOCK_WAIT_S = 3.0
_LOCK_LOOK_S = 0.05
_PLACE_LOOK_S = 5.0
_log = get_logger("daemon")
_models_log = get_logger("models")


@dataclass(slots=True, kw_only=True)
class Daemon:
    """Everything that work on a data directory needs, open and ready.

    Attributes:
        settings: those in effect; some of them change when they are read anew.
        run: the one that the settings name.
        every_run: work on all runs that the settings fit, not on `run` alone.
        resumed: what earlier processes had left open in the runs that were taken up.
    """

    settings: Settings
    run: Run
    every_run: bool
    database: Database
    bus: Bus
    event_log: EventLog
    classes: Mapping[str, HandlerClass]
    services: Services
    endpoints: Mapping[str, Pool]
    slots: Slots
    resumed: list[Resumed] = field(default_factory=list)

    @property
    def control(self) -> LocalControl:
        """Takes requests from people, and sees to it that the bus acts on them."""
        return LocalControl(
            self.database,
            self.settings,
            bus=self.bus,
            serves=self.serves,
            take_up=self.take_up,
            ask_again=self._ask_again,
        )

    def _ask_again(self) -> None:
        self.services.models.given_up.clear()
        for pool in self.endpoints.values():
            pool.ask_again()

    def serves(self, run: Run) -> bool:
        """Whether a run is worked on here."""
        is_ours = run.id == self.run.id or (self.every_run and run.digest == self.run.digest)
        return is_ours and not run.paused

    async def take_up(self, only: int | None = None) -> None:
        """Go on with what rested or was left open in the runs that are worked on here, or in one, and tell of it."""

        def is_meant(run: Run) -> bool:
            return self.serves(run) and only in (None, run.id)

        runs = [run for run in await list_runs(self.database) if is_meant(run)]
        await wake(self.database, self.services.models.budget, [run.id for run in runs])
        for run in runs:
            if run.id not in self.bus.runs and (resumed := await tell_of_resumption(self.database, run)):
                self.resumed.append(resumed)
                self.bus.tell_of_caps_anew()  # one that was told of before counts as lifted by this
        # Read in line with other writes, for one may have been paused meanwhile.
        self.bus.admit([run.id for run in await self.database.write(read_runs) if is_meant(run)])

    async def work(self, *, until_drained: bool, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        """Deliver events until cancelled or, if asked to, until nothing is owed but what was set aside.

        Trouble with the disk is waited out; when the work ends, what was earned has `run.stop_grace` to be committed.

        Args:
            until_drained: end when nothing is left to do, and `meanwhile` is done.
            meanwhile: done while the work goes on.
        """
        handlers = [make(self.services) for make in self.classes.values()]
        # A stop ends the process before that is over, and says what was lost.
        patience = self.database.waiting_out_trouble(lambda: self.settings.run.stop_grace + 2 * LAST_WORDS_S)
        async with patience as end_soon, anyio.create_task_group() as tasks:
            tasks.start_soon(_call_when_cancelled, end_soon)
            tasks.start_soon(self.event_log.run, name="event log")
            tasks.start_soon(self.bus.run, self.database, handlers)
            tasks.start_soon(watch_clock, self.bus.look)
            tasks.start_soon(self._watch_place, name="place of the database")
            await self._tell_of_missing_handlers()
            if meanwhile is not None:
                await meanwhile()
            if until_drained:
                await self.bus.wait_until_drained(self.database)
                tasks.cancel_scope.cancel()

    async def _tell_of_missing_handlers(self) -> None:
        """Say what nobody here will ever do: the package that brought its handler is not installed any more."""
        for handler, owed in (await count_owed(self.database, self.bus.runs)).items():
            if handler not in self.classes:
                next_step = "install its package again, or cancel the tasks"
                _log.warning("handler not installed: its work stays owed", handler=handler, owed=owed, next=next_step)

    async def _watch_place(self) -> None:
        """Find out that the database is gone also where nothing is written; raises DatabaseGoneError."""
        while True:
            await self.database.flush()
            await anyio.sleep(_PLACE_LOOK_S)


@contextlib.asynccontextmanager
async def open_daemon(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    every_run: bool = False,
    search: Search | None = None,
    watchers: Sequence[Watcher] = (),
) -> AsyncIterator[Daemon]:
    """Open everything that work needs and give it out as a daemon.

    Args:
        every_run: work on all runs that the settings fit, not only on the one that they name.
        search: instead of the backend that the settings name.
        watchers: see every event from the first on.

    Raises:
        ConfigError: a setting that the run needs is missing, or the run was begun with other settings.
        DataLockedError: another process works on the data directory.
    """
    raise_descriptor_limit()
    roles = replica_settings(settings, environ)
    caps(settings, roles)  # tells what is missing before anything is opened
    agent, search = _agent(settings), search or _search(settings)
    classes = handler_classes()
    redact = redactor(configured_secrets(settings, environ))
    bus = Bus(retries=retries(settings), capacity=settings.bus.queue, redact=redact)
    for watcher in watchers:
        bus.watch(watcher)

    def on_trouble(trouble: StorageTroubleError | None) -> None:
        bus.downtime.note_trouble(trouble)
        tell_of_trouble(trouble)

    async with contextlib.AsyncExitStack() as stack:
        database = Database(
            settings.run.data,
            subscriptions=subscriptions(classes.values()),
            on_commit=bus.on_commit,
            on_trouble=on_trouble,
        )
        await _enter(stack, database)
        event_log = _event_log(settings, database)
        bus.watch(event_log.note)
        # First in, so last out: what the others commit while they close is in the files, too.
        stack.push_async_callback(event_log.finish)
        # Comes up in a process of its own while the rest is opened.
        sandbox = await stack.enter_async_context(ProcessSandbox())
        run = await open_run(database, settings, settings.run.name)
        heard = await roles_heard(database)
        endpoints = {
            role: await stack.enter_async_context(Pool(replicas, _tell, has_replied=role in heard))
            for role, replicas in roles.items()
        }
        models = Models(
            make_roles(settings, endpoints),
            database=database,
            seed=settings.run.seed,
            trace_headers=settings.models.trace_headers,
        )
        models.prices, models.budget = price_list(settings), await open_budget(settings, roles, database)
        bus.watch(models.budget.note)
        bus.stands = models.budget.stands
        workspaces = Workspaces(
            workspaces_folder(settings.run.data),
            WorkspaceLimits(max_files=settings.workspace.max_files, max_mb=settings.workspace.max_mb),
        )
        await workspaces.clear()
        stack.push_async_callback(workspaces.remove)
        slots = Slots(settings.run.rollouts)
        equipment = Equipment(
            agent=agent,
            budget=Budget(max_steps=settings.agent.max_steps, time_limit=settings.agent.time_limit),
            step_deadline=settings.agent.step_deadline,
            database=database,
            models=models,
            sandbox=sandbox,
            limits=_limits(settings),
            search=search,
            search_limit=settings.search.limit,
            workspaces=workspaces,
        )
        services = Services(
            settings=settings,
            database=database,
            models=models,
            agent=agent,
            executor=LocalExecutor(equipment, slots),
        )
        daemon = Daemon(
            settings=settings,
            run=run,
            every_run=every_run,
            database=database,
            bus=bus,
            event_log=event_log,
            classes=classes,
            services=services,
            endpoints=endpoints,
            slots=slots,
        )
        await daemon.take_up()
        await sandbox.ready()
        yield daemon


async def _enter(stack: contextlib.AsyncExitStack, database: Database) -> None:
    """Open the database, waiting a moment for a command that has it open to submit something.

    Raises:
        DataLockedError: another process works on the data directory.
    """
    until = loop_time() + _LOCK_WAIT_S
    while True:
        try:
            await stack.enter_async_context(database)
        except DataLockedError as error:
            notice = read_notice(database.directory)
            is_daemon = notice is not None and notice.pid == error.pid and _is_alive(notice.pid)
            if is_daemon or loop_time() >= until:
                raise
        else:
            return
        await anyio.sleep(_LOCK_LOOK_S)


async def _call_when_cancelled(function: Callable[[], None]) -> None:
    """Call it once this is cancelled, as what runs beside it is then, which may hold on."""
    try:
        await anyio.sleep_forever()
    finally:
        function()


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _tell(text: str) -> None:
    """Say what is the matter with an endpoint."""
    _models_log.warning(text)


def _event_log(settings: Settings, database: Database) -> EventLog:
    files = EventFiles(
        settings.run.data / EVENTS_FILE, max_bytes=settings.log.events_mb << 20, kept=settings.log.events_kept
    )
    return EventLog(database, files)


def retries(settings: Settings) -> Retries:
    """How failed deliveries are put off."""
    bus = settings.bus
    return Retries(attempts=bus.attempts, delay=bus.delay, max_delay=bus.max_delay, max_time=bus.max_time)


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
