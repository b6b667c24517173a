"""`cso retry`: put work that was set aside after repeated failures back into the queue."""

from typing import Annotated

import anyio
import typer

from runtime.cli.options import ConfigOption, DataOption, JsonOption, OneRunOption, named_task, settings_for
from runtime.cli.output import say, write_data, write_json
from runtime.cli.reach import patience, reach, run_name
from runtime.cli.report import counted
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from store.database import Reader
from store.tasks import is_cancelled


def retry(
    task: Annotated[str | None, typer.Option("--task", help="Only work of the task with this id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All work that was set aside.")] = False,
    name: OneRunOption = None,
    file: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Put work that was set aside back into the queue, its failures forgotten.

    A daemon at work then asks endpoints again that refused a key, or that wanted to be left alone.
    """
    if task is not None and everything:
        raise ConfigError("--task and --all are two things: say one of them")
    if task is not None:
        named_task(task)
    elif not everything and name is None:
        raise ConfigError("say what to try again: --task ID, --run NAME, or --all")
    revived, is_daemon, is_given_up = anyio.run(_retry, settings_for(file, data), name, task)
    if json:
        write_json({"run": name, "task": task, "deliveries": revived, "daemon": is_daemon})
    elif revived:
        write_data(f"{counted(revived, 'delivery', 'deliveries')} back in the queue")
    elif is_given_up:
        write_data(f"task {task} was given up: to have it done, submit it under another id, or in a new run")
    else:
        write_data("nothing was set aside" + ("; any endpoint that had stopped is asked again" if is_daemon else ""))
    if revived and not is_daemon:
        say("no daemon is at work: it is tried again by `cso serve`, or by the `cso run` that began it")


async def _retry(settings: Settings, name: str | None, task: str | None) -> tuple[int, bool, bool]:
    run = name if task is None and name is None else await run_name(settings, name)
    async with reach(settings) as reached, patience(reached, lets_go=False):
        revived = await reached.control.retry(run=run, task=task)
        is_daemon = reached.is_daemon
    if revived or run is None or task is None:
        return revived, is_daemon, False
    async with Reader(settings.run.data) as reader:
        return revived, is_daemon, await is_cancelled(reader, run, task)
