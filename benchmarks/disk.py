"""How much disk a trajectory takes, beside the JSON lines that its calls would fill.

Trajectories of 12 steps, with a system message of 6 KB and replies of 1.5 KB, written by the collect stage as the
daemon runs it: of an agent that asks once a step, and of the main agent, which asks for a plan as well and for the
result in the end. A figure is the growth of the database's file for each trajectory.

    python -m benchmarks.disk [--json] [--check]
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import orjson

from benchmarks.figures import Figure, run_alone
from benchmarks.server import ANSWER, serving
from benchmarks.texts import Texts
from benchmarks.workload import OneReply, collecting
from runtime.agents.main.agent import MODULES, MainAgent
from runtime.sandbox import Ending, Execution, Limits, Tool
from store.calls import load_request
from store.database import Database, Reader

STEPS = 12
SYSTEM_CHARACTERS = 6000
OUTPUT_CHARACTERS = 400
FIRST = 32  # what only the first trajectories need is left out
COUNTED = 224
_SHOWN = 25  # trajectories whose calls are read back for the size of the JSON lines


@dataclass(frozen=True, slots=True)
class Printing:
    """A sandbox that runs nothing: each execution prints something else, and the last one gives the answer."""

    texts: Texts = field(default_factory=lambda: Texts("observations"))
    runs: dict[Path, int] = field(default_factory=dict)

    def expect(self, workspace: Path, *, tools: Collection[str], limits: Limits) -> None:
        """Make nothing ready."""

    def forget(self, workspace: Path) -> None:
        """Keep nothing."""

    async def run(self, code: str, *, workspace: Path, tools: Mapping[str, Tool], limits: Limits) -> Execution:  # noqa: ARG002 - the protocol's
        """Print, and call stop() in the last step."""
        self.runs[workspace] = self.runs.get(workspace, 0) + 1
        if self.runs[workspace] == STEPS:
            await tools["stop"](output=ANSWER, log=self.texts.prose(100))
        output = self.texts.prose(OUTPUT_CHARACTERS)
        return Execution(output=output, error=None, ending=Ending.COMPLETED, seconds=0.1)


async def _write_trajectories(folder: Path, url: str, make: type[MainAgent]) -> tuple[int, int]:
    """Bytes of the database after the first trajectories of an agent and after all of them."""
    texts = Texts("system")
    agent = make(prompts={module: texts.prose(SYSTEM_CHARACTERS) for module in MODULES})
    sandbox = Printing()
    sizes = []
    async with collecting(folder, url, rollouts=64, steps=STEPS, sandbox=sandbox, agent=agent) as work:
        for count in (FIRST, COUNTED):
            await work.run(count)
            sizes.append(await _size(work.database))
    return sizes[0], sizes[1]


async def _size(database: Database) -> int:
    """The bytes of the database's file with everything in it that is committed."""
    async with database.snapshot() as connection:
        rows = await connection.execute_fetchall(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        )
    return int(next(iter(rows))[0])


async def _json_lines_bytes(folder: Path) -> float:
    """Bytes for each trajectory of its calls as JSON lines of full prompts, with their replies."""
    size = 0
    async with Reader(folder) as reader:
        rows = await reader.fetch("SELECT c.id FROM calls c WHERE c.trajectory <= ?", (_SHOWN,))
        for row in rows:
            messages = [
                {"role": message.role, "content": message.content} for message in await load_request(reader, row[0])
            ]
            size += len(orjson.dumps({"messages": messages})) + 1
    return size / _SHOWN


def _figure(name: str, agent: type[MainAgent], *, at_most: float | None) -> Figure:
    with tempfile.TemporaryDirectory(prefix="cso-bench-") as folder:
        with serving(latency=0.0, tasks=FIRST + COUNTED, steps=STEPS) as url:
            first, last = anyio.run(_write_trajectories, Path(folder), url, agent)
        lines = anyio.run(_json_lines_bytes, Path(folder))
    return Figure(
        name=f"a trajectory of {STEPS} steps, {name}",
        value=(last - first) / COUNTED / 1000,
        unit="kB",
        against="its calls as JSON lines",
        limit=lines / 1000,
        at_most=at_most,
    )


def measure() -> list[Figure]:
    """All figures of this benchmark."""
    return [
        _figure(f"{STEPS} replies", OneReply, at_most=25.0),
        _figure(f"main agent, {2 * STEPS + 1} replies", MainAgent, at_most=None),
    ]


if __name__ == "__main__":
    run_alone(measure, __doc__)
