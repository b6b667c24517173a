"""Serving: a daemon at work with everything around it, from the lock to the last commit.

`cso serve` and `cso run` are the same but for what ends them: a signal, or a run in which nothing is left to do.
Around the work stand the HTTP API with its notice in the data directory, the spool folder, the service manager's
signs of life, the meter of the event loop, and signals that stop it in stages.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from runtime.api.listening import listening
from runtime.api.live import Live
from runtime.config.settings import Api, Settings
from runtime.daemon import Daemon, open_daemon
from runtime.errors import ConfigError
from runtime.logs import configure_logs, get_logger
from runtime.machine import collect_garbage_seldom
from runtime.notice import posted
from runtime.reload import Reloaded, apply_settings
from runtime.sandbox import guard_own_process
from runtime.service_manager import ServiceManager
from runtime.spool import Spool
from runtime.stderr import stderr
from runtime.stopping import LAST_WORDS_S, Stop, described_calls, staged_stop
from runtime.teller import Teller
from store.deliveries import count_owed
from store.errors import StorageTroubleError
from store.runs import differences, list_runs

_log = get_logger("serve")
Load = Callable[[], Settings]


@contextlib.asynccontextmanager
async def around(
    daemon: Daemon, stop: Stop, environ: Mapping[str, str], *, api: Api, manager: ServiceManager
) -> AsyncIterator[Live]:
    """Everything that stands around a daemon's work, while the block does it inside `stop.work`.

    Args:
        api: where to listen.
        manager: hears that the daemon is ready, and what follows.

    Raises:
        ConfigError: the API cannot listen there.
    """
    collect_garbage_seldom()
    live = Live(daemon=daemon)
    daemon.bus.watch(live.note)

    def on_stop() -> None:
        live.stopping = True
        manager.stopping(stop.grace + 2 * LAST_WORDS_S)

    def awaited() -> str:
        asking, trouble = daemon.services.models.asking, daemon.database.own_trouble
        replies = [described_calls(asking)] if asking else []
        saving = [f"what was earned to be saved ({trouble.what})"] if trouble else []
        return " and ".join(replies + saving)

    async def last_words() -> None:
        # Replies that have arrived are in line to be committed; this is the end of the line.
        await daemon.database.flush()

    stop.awaited, stop.on_stop, stop.last_words = awaited, on_stop, last_words
    async with listening(live, api, environ) as url, anyio.create_task_group() as tasks:
        with posted(daemon.settings.run.data, url):
            live.url = url
            tasks.start_soon(live.lag.run)
            manager.ready(describe(live))
            if stop.signal is not None:  # it came while everything was being opened
                on_stop()
            tasks.start_soon(manager.keep_alive, lambda: describe(live))
            yield live
        tasks.cancel_scope.cancel()
    await manager.finish()


async def serve(settings: Settings, environ: Mapping[str, str], load: Load) -> signal.Signals | None:
    """Work until a signal says to stop; the signal.

    Args:
        load: reads the configuration anew, at SIGHUP.

    Raises:
        ConfigError: something that is needed is not set, or the run that is named was begun with other settings.
        DataLockedError: another process works on the data directory.
    """
    configure_logs(settings.log.level)
    spool = Path(settings.queue.spool) if settings.queue.spool else None
    with contextlib.suppress(OSError):  # one that cannot be looked at may be used later: the spool tells of it
        if spool is not None and spool.exists() and not spool.is_dir():
            raise ConfigError(f"queue.spool: {spool} is no folder")
    guard_own_process()
    manager = ServiceManager(environ)
    stop = Stop(grace=settings.run.stop_grace, tell=_log.warning)
    reloader = _Reloader(stop, environ, load, manager)
    stop.on_hangup = reloader.reload
    teller = Teller()
    with stderr.holding_up_nothing():
        _log.info("starting", data=str(settings.run.data), pid=os.getpid())
        async with (
            staged_stop(stop),
            open_daemon(settings, environ, every_run=True, watchers=[teller.note]) as daemon,
            around(daemon, stop, environ, api=settings.api, manager=manager) as live,
            teller.telling(daemon.database),
        ):
            reloader.begin(live)
            _log.info("ready", url=live.url)
            await _tell_of_idle_runs(daemon)
            with stop.work:
                async with anyio.create_task_group() as tasks:
                    if spool is not None:
                        live.spool = Spool(spool, daemon.control)
                        tasks.start_soon(live.spool.run)
                    await daemon.work(until_drained=False)
        _log.info("stopped", signal=stop.signal.name if stop.signal else None)
    return stop.signal


async def _tell_of_idle_runs(daemon: Daemon) -> None:
    """Say which runs have work that is not done here, and why."""
    for run in await list_runs(daemon.database):
        if daemon.serves(run) or not await count_owed(daemon.database, [run.id]):
            continue
        if run.paused:
            _log.warning("run is paused", run=run.name, next=f"`cso resume --run {run.name}`")
        else:
            changes = ", ".join(differences(run.identity, daemon.run.identity))
            _log.warning("run left alone: it was begun with other settings", run=run.name, changed=changes)


class _Reloader:
    """Reads the configuration anew at SIGHUP, once there is a daemon whose settings can change."""

    def __init__(self, stop: Stop, environ: Mapping[str, str], load: Load, manager: ServiceManager) -> None:
        self._live: Live | None = None
        self._is_open = anyio.Event()
        self._one_by_one = anyio.Lock()  # or the file of the earlier signal might be applied last
        self._stop = stop
        self._environ = environ
        self._load = load
        self._manager = manager

    def begin(self, live: Live) -> None:
        """From now on there is something to change; a signal that came before takes effect now."""
        self._live = live
        self._is_open.set()

    async def reload(self) -> None:
        """Apply what may change; a configuration that is wrong, or a disk in trouble, changes nothing."""
        await self._is_open.wait()
        assert self._live is not None  # as `begin` has been called
        async with self._one_by_one:
            self._manager.reloading()
            try:
                wanted = await run_sync(self._load)
                done = await apply_settings(self._live.daemon, wanted, self._environ)
            except (ConfigError, StorageTroubleError) as error:
                _log.error("configuration not read: everything stays as it was", error=str(error))
            except Exception:  # noqa: BLE001 - the border to a signal: a defect met by it must not end the work
                _log.exception("configuration not read, for a reason of ours")
            else:
                self._tell(done)
            self._manager.ready(describe(self._live))

    def _tell(self, done: Reloaded) -> None:
        assert self._live is not None  # as in `reload`
        self._stop.grace = self._live.daemon.settings.run.stop_grace
        for key, (old, new) in done.applied.items():
            _log.warning("setting changed", key=key, old=old, new=new)
        for key, why in done.refused.items():
            _log.warning("setting not changed", key=key, why=why)
        _log.warning("configuration read", changed=len(done.applied), refused=len(done.refused))


def describe(live: Live) -> str:
    """What a daemon is doing, in a line."""
    daemon = live.daemon
    if trouble := daemon.database.trouble:
        return f"waiting: {trouble.what}"
    stopped = [f"{role}: {pool.snapshot().reason}" for role, pool in daemon.endpoints.items() if pool.is_stopped]
    if daemon.bus.held and stopped:
        return f"waiting: {'; '.join(stopped)}"
    return (
        f"{live.state}: {len(daemon.bus.runs)} runs, {daemon.slots.in_use} of {daemon.slots.total} rollouts, "
        f"{len(daemon.services.models.asking)} model calls under way"
    )
