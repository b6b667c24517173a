"""The program that is killed: what `cso demo` does, against a server that outlives it.

`python -m tests.crash.worker PLAN`, where PLAN is the JSON of a `Plan`. Ends with status 0 when the work is done or
a SIGTERM has stopped it.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
import orjson

from runtime.cli.working import work_off
from runtime.simulation.search import WorldSearch
from runtime.simulation.world import World
from store.formats.task_files import read_tasks
from tests.acceptance.running import settings_for

DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker works on: a world, the server that plays its models, and where its data lies."""

    url: str
    data: Path
    seed: int
    tasks: int
    rollouts: int = 8

    @property
    def task_file(self) -> Path:
        """The world's tasks, written by whoever starts the worker."""
        return self.data.parent / "tasks" / "tasks.jsonl"

    @property
    def log(self) -> Path:
        """Where workers write what they say to people."""
        return self.data.parent / "worker.log"

    @property
    def world(self) -> World:
        """The world, the same in every process."""
        return World.generate(self.seed, self.tasks)

    def command(self) -> list[str]:
        """The command line of a worker."""
        words = orjson.dumps({**asdict(self), "data": str(self.data)}).decode()
        return [sys.executable, "-m", "tests.crash.worker", words]


async def _work(plan: Plan) -> None:
    settings = settings_for(plan.url, plan.data, {"run.rollouts": plan.rollouts, "log.level": "error"})
    records = read_tasks(plan.task_file, strict=True).tasks
    worked = await work_off(settings, {}, records, search=WorldSearch(plan.world))
    if worked.summary.set_aside:
        raise AssertionError(f"set aside: {worked.summary.set_aside}")
    if worked.stopped_by is not signal.SIGTERM:
        sys.stdout.write(f"{DONE}\n")


if __name__ == "__main__":
    given = orjson.loads(sys.argv[1])
    anyio.run(_work, Plan(**{**given, "data": Path(given["data"])}))
