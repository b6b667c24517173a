"""`cso pause`: leave a run alone until it is resumed, also over restarts of the daemon."""

import anyio

from runtime.cli.options import ConfigOption, DataOption, JsonOption, OneRunOption, settings_for
from runtime.cli.output import write_data, write_json
from runtime.cli.reach import patience, reach, run_name
from runtime.config.settings import Settings


def pause(
    name: OneRunOption = None,
    file: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Leave a run alone until `cso resume`; what it has and what is owed to it stays."""
    run = anyio.run(_pause, settings_for(file, data), name)
    if json:
        write_json({"run": run, "paused": True})
    else:
        write_data(f"run {run} is paused")


async def _pause(settings: Settings, name: str | None) -> str:
    run = await run_name(settings, name)
    async with reach(settings) as reached, patience(reached, lets_go=True):
        await reached.control.pause(run)
    return run
