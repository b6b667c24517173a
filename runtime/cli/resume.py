"""`cso resume`: take a paused run up again."""

import anyio

from runtime.cli.options import ConfigOption, DataOption, JsonOption, OneRunOption, settings_for
from runtime.cli.output import say, write_data, write_json
from runtime.cli.reach import patience, reach, run_name
from runtime.config.settings import Settings


def resume(
    name: OneRunOption = None,
    file: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Take a paused run up again, from where it stood."""
    run, is_served, is_daemon = anyio.run(_resume, settings_for(file, data), name)
    if json:
        write_json({"run": run, "paused": False, "serving": is_served})
    else:
        write_data(f"run {run} goes on" if is_served else f"run {run} is not paused any more")
    if is_daemon and not is_served:
        say("the process at work does not work on it: `cso serve` will, under the settings that it was begun with")
    elif not is_served:
        say("no daemon is at work: under the settings that it was begun with, `cso serve` goes on with it")


async def _resume(settings: Settings, name: str | None) -> tuple[str, bool, bool]:
    run = await run_name(settings, name)
    async with reach(settings) as reached, patience(reached, lets_go=False):
        return run, await reached.control.resume(run), reached.is_daemon
