"""`cso cancel`: give a task up, in the daemon's hands or in the queue."""

from typing import Annotated

import anyio
import typer

from runtime.cli.options import ConfigOption, DataOption, JsonOption, OneRunOption, named_task, settings_for
from runtime.cli.output import write_data, write_json
from runtime.cli.reach import patience, reach, run_name
from runtime.cli.report import counted
from runtime.config.settings import Settings


def cancel(
    task: Annotated[str, typer.Argument(help="The task's id, as in its task file.")],
    name: OneRunOption = None,
    file: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Give a task up: nothing more is done for it, and what was earned stays."""
    run, dropped = anyio.run(_cancel, settings_for(file, data), name, named_task(task))
    if json:
        write_json({"run": run, "task": task, "deliveries": dropped})
    elif dropped:
        write_data(f"task {task} of run {run} is given up: {counted(dropped, 'delivery', 'deliveries')} dropped")
    else:
        write_data(f"nothing of task {task} of run {run} was open")


async def _cancel(settings: Settings, name: str | None, task: str) -> tuple[str, int]:
    run = await run_name(settings, name)
    async with reach(settings) as reached, patience(reached, lets_go=True):
        return run, await reached.control.cancel(run=run, task=task)
