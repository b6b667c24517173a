"""A process that commits events and keeps the event log until it is killed; it prints the seq of each commit."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from runtime.eventlog import EVENTS_FILE, EventFiles, EventLog
from store.database import Database
from store.events import StepCompleted
from store.log import Log
from tests.story import filler, tell_story

NOTED = StepCompleted(run=1, trajectory=1, step=0, failed=False)


async def main(directory: Path) -> None:
    """Commit for ever, files rotating every few events."""
    files = EventFiles(directory / EVENTS_FILE, max_bytes=2000, kept=10_000)
    async with Database(directory) as database, anyio.create_task_group() as tasks:
        log = EventLog(database, files)
        tasks.start_soon(log.run)
        if await Log(database).newest() == 0:
            await database.write(tell_story())
        while True:
            await database.write(filler(1, 1, 1, 7))
            log.note(NOTED)
            sys.stdout.write(f"{await Log(database).newest()}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
