"""What an execution of code in the sandbox costs, in processor time of all processes together and in wall time.

One after the other in one workspace, and 256 workspaces at once, six times over, as rollouts do it; then with runners
made while the code is asked for, as the main agent has it. Beside them the start of a bare interpreter, which is what
a sandbox without warm processes would pay, and a bare fork of one.

    python -m benchmarks.sandbox [--json] [--check]
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from benchmarks.figures import ROUNDS, Figure, run_alone
from benchmarks.texts import Texts
from runtime.sandbox import Limits, ProcessSandbox
from runtime.sandbox.footing import find_footing

AT_ONCE = 256
TURNS = 6
ALONE = 200
BARE = 20
# In this time 256 runners are made, and their supervisors in the first turn.
_MAKING_S = 3.0
FORKS = 100
_FORKING = f"""
import os
for _ in range({FORKS}):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds for one of many: processor time of this process and all that it waited for, and wall time."""

    processor: float
    wall: float


def _processor_s() -> float:
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


async def _execute(folder: Path, codes: Sequence[str], turns: int, expected: bool = False) -> float:
    """Run codes some times in a fresh sandbox, all at once in workspaces of their own; the seconds that they took.

    If they are `expected`, their runners are made beforehand, and that time is not counted.
    """
    paths = [folder / str(number) for number in range(len(codes))]
    async with ProcessSandbox() as sandbox:
        await sandbox.ready()

        async def run(path: Path, code: str) -> None:
            execution = await sandbox.run(code, workspace=path, tools={}, limits=Limits())
            assert execution.ok, execution.error

        for path in paths:
            path.mkdir(exist_ok=True)
        seconds = 0.0
        for _ in range(turns):
            if expected:
                for path in paths:
                    sandbox.expect(path, tools={}, limits=Limits())
                await anyio.sleep(_MAKING_S)
            started = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for path, code in zip(paths, codes, strict=True):
                    tasks.start_soon(run, path, code)
            seconds += time.perf_counter() - started
        return seconds


def executions(workspaces: int, turns: int, *, expected: bool = False) -> Cost:
    """The cost of an execution: what a sandbox that runs them costs more than one that runs nothing."""
    codes = [Texts(f"code {number}").code(1000) for number in range(workspaces)]
    with tempfile.TemporaryDirectory(prefix="cso-bench-") as folder:
        Path(folder).chmod(0o711)
        begin = _processor_s()
        anyio.run(_execute, Path(folder), (), 0)
        between = _processor_s()
        seconds = anyio.run(_execute, Path(folder), codes, turns, expected)
        spent = _processor_s() - between - (between - begin)
    return Cost(1e3 * spent / (workspaces * turns), 1e3 * seconds / (workspaces * turns))


def interpreters(program: str = "pass") -> Cost:
    """The cost of a bare interpreter that runs a program."""
    python = find_footing().python
    begin, started = _processor_s(), time.perf_counter()
    for _ in range(BARE):
        subprocess.run([python, "-I", "-c", program], check=True)
    return Cost(1e3 * (_processor_s() - begin) / BARE, 1e3 * (time.perf_counter() - started) / BARE)


def _best(measure_once: Callable[[], Cost]) -> Cost:
    return min((measure_once() for _ in range(ROUNDS)), key=lambda cost: cost.processor)


def measure() -> list[Figure]:
    """The figures of the sandbox."""
    interpreter, forking = _best(interpreters), _best(lambda: interpreters(_FORKING))
    alone, burst = _best(lambda: executions(1, ALONE)), _best(lambda: executions(AT_ONCE, TURNS))
    expected = _best(lambda: executions(AT_ONCE, TURNS, expected=True))

    def beside(name: str, value: float, bare: float, *, at_most: float | None = None) -> Figure:
        return Figure(name=name, value=value, unit="ms", against="a bare interpreter", limit=bare, at_most=at_most)

    of_one = "processor time of an execution"
    return [
        beside(f"{of_one}, {AT_ONCE} at once", burst.processor, interpreter.processor, at_most=6.0),
        beside(f"{of_one}, one at a time", alone.processor, interpreter.processor),
        beside("wall time of an execution, one at a time", alone.wall, interpreter.wall),
        Figure(name=f"wall time of {AT_ONCE} executions at once", value=AT_ONCE * burst.wall / 1e3, unit="s"),
        Figure(name="the same, each expected beforehand", value=AT_ONCE * expected.wall / 1e3, unit="s"),
        beside(f"{of_one}, then", expected.processor, interpreter.processor),
        Figure(
            name="processor time of a bare interpreter's fork",
            value=(forking.processor - interpreter.processor) / FORKS,
            unit="ms",
        ),
    ]


if __name__ == "__main__":
    run_alone(measure, __doc__)
