"""Working a run off in the foreground: tasks in, progress on screen, and a stop that loses nothing.

`cso run` and `cso demo` share it. The first SIGINT or SIGTERM takes nothing new, waits for the model replies that are
being paid for, and leaves; the second leaves at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import TaskStatus

from runtime.cli.output import say
from runtime.cli.progress import show_progress
from runtime.cli.tally import Tally
from runtime.config.settings import Settings
from runtime.daemon import Daemon, open_daemon
from runtime.logs import configure_logs
from runtime.sandbox import guard_own_process
from runtime.search import Search
from store.events import Event, Resumed
from store.formats.task_files import TaskRecord
from store.summary import Summary, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """How the work ended: the run's numbers, and the signal that stopped it, if one did."""

    summary: Summary
    stopped_by: signal.Signals | None


async def work_off(
    settings: Settings, environ: Mapping[str, str], records: Sequence[TaskRecord], *, search: Search | None = None
) -> Worked:
    """Submit tasks and work until nothing is left to do, or until told to stop."""
    configure_logs(settings.log.level)
    guard_own_process()
    resumed: list[Resumed] = []

    def watch(event: Event) -> None:
        if isinstance(event, Resumed):
            resumed.append(event)

    async with open_daemon(settings, environ, search=search, watchers=[watch]) as daemon:
        submitted = await daemon.submit(records)
        say(f"run {daemon.run.name}: {submitted.new} new tasks, {submitted.known} known, in {settings.run.data}")
        for event in resumed:
            say(
                f"resumed: {event.deliveries} deliveries owed, {event.trajectories} rollouts under way"
                f" with {event.steps} steps and {event.calls} paid replies kept"
            )
        before = await summarise(daemon.database, daemon.run)
        tally = Tally.begun(before, trajectories=settings.run.trajectories)
        daemon.bus.watch(tally.note)
        async with show_progress(tally):
            stopped_by = await _work_until_stopped(daemon)
        return Worked(summary=await summarise(daemon.database, daemon.run), stopped_by=stopped_by)


async def _work_until_stopped(daemon: Daemon) -> signal.Signals | None:
    stopped: list[signal.Signals] = []
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        await tasks.start(_watch_signals, scope, stopped)
        with scope:
            await daemon.work(until_drained=True)
        tasks.cancel_scope.cancel()
    return stopped[0] if stopped else None


async def _watch_signals(
    work: anyio.CancelScope, stopped: list[signal.Signals], *, task_status: TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        async for number in received:
            if stopped:
                # At once means at once: children notice that we are gone, and everything earned is committed.
                os._exit(128 + number)
            stopped.append(number)
            say("\nstopping: waiting for replies that are being paid for (again: at once)")
            work.cancel()
