"""Working a run off in the foreground: tasks in, progress on screen, and a stop that loses nothing.

`cso run` and `cso demo` share it. It is `cso serve` for one run that ends when nothing is left to do: the same
daemon, which other commands reach in the same way, and the same stop in stages.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio

from runtime.cli.output import say
from runtime.cli.progress import show_progress
from runtime.cli.report import counted
from runtime.cli.tally import Tally
from runtime.config.settings import Api, Settings
from runtime.daemon import Daemon, open_daemon
from runtime.errors import ConfigError
from runtime.logs import configure_logs
from runtime.sandbox import guard_own_process
from runtime.search import Search
from runtime.serve import around
from runtime.service_manager import ServiceManager
from runtime.stderr import stderr
from runtime.stopping import Stop, staged_stop
from store.events import Event, Resumed
from store.formats.task_files import TaskRecord
from store.runs import find_run
from store.summary import Summary, summarise

# For the other commands, which find it through its notice: any port does, and nobody else is to come in.
_API = Api(host="127.0.0.1", port=0, token_env="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """How the work ended: the run's numbers, and the signal that stopped it, if one did."""

    summary: Summary
    stopped_by: signal.Signals | None


async def work_off(
    settings: Settings, environ: Mapping[str, str], records: Sequence[TaskRecord], *, search: Search | None = None
) -> Worked:
    """Submit tasks and work until nothing is left to do, or until told to stop.

    Raises:
        ConfigError: a setting is missing or wrong, or the run was begun with other settings, or is paused.
        ChangedTaskError: the run has a task of the same name with other content.
        DataLockedError: another process works on the data directory.
    """
    configure_logs(settings.log.level)
    guard_own_process()
    stop = Stop(grace=settings.run.stop_grace, tell=say)
    with stderr.holding_up_nothing():
        async with (
            staged_stop(stop),
            open_daemon(settings, environ, search=search, watchers=[_say_what_was_resumed]) as daemon,
            around(daemon, stop, environ, api=_API, manager=ServiceManager({})),
        ):
            if daemon.run.paused:
                raise ConfigError(
                    f"run {daemon.run.name!r} is paused: take it up again with `cso resume --run {daemon.run.name}`"
                )
            with stop.work:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_show_progress, daemon)
                    # Taken while older work goes on: after a restart most of a long file is known already.
                    await daemon.work(until_drained=True, meanwhile=lambda: _submit(daemon, records))
                    tasks.cancel_scope.cancel()
            # Asked for anew, because it may have been paused meanwhile.
            run = await find_run(daemon.database, daemon.run.name) or daemon.run
            return Worked(summary=await summarise(daemon.database, run), stopped_by=stop.signal)


async def _submit(daemon: Daemon, records: Sequence[TaskRecord]) -> None:
    taken = await daemon.control.submit(records, run=daemon.run.name)
    new = counted(taken.new, "new task")
    say(f"run {daemon.run.name}: {new}, {taken.known} known, in {daemon.settings.run.data}")


async def _show_progress(daemon: Daemon) -> None:
    """Show how the run goes, from where it stands once that has been counted."""
    meanwhile: list[Event] = []
    tally: Tally | None = None

    def note(event: Event) -> None:
        if tally is None:
            meanwhile.append(event)
        else:
            tally.note(event)

    daemon.bus.watch(note)
    before = await summarise(daemon.database, daemon.run)
    tally = Tally.begun(before, trajectories=daemon.settings.run.trajectories)
    for event in meanwhile:
        # What was committed while we counted may be missing from the display, but never from the result.
        if event.seq > before.newest:
            tally.note(event)
    async with show_progress(tally):
        await anyio.sleep_forever()


def _say_what_was_resumed(event: Event) -> None:
    if isinstance(event, Resumed):
        say(
            f"resumed: {counted(event.deliveries, 'delivery', 'deliveries')} owed,"
            f" {counted(event.trajectories, 'rollout')} under way"
            f" with {event.steps} steps and {event.calls} paid replies kept"
        )
