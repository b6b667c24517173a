"""How close many agents at once come to the time that their model calls alone take.

256 agents of 6 calls each (3 steps of plan and action), 100 ms a reply, each reply and step durable before the agent
goes on; no code is run. The agents' process has one core, the model server another. Then the same agents with real
code actions in the sandbox and 2 s a reply, on all cores.

    python -m benchmarks.agents [--json] [--check]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio

from benchmarks.figures import Figure, Lag, pin, run_alone, unpin
from benchmarks.server import serving
from benchmarks.workload import Collecting, NoCode, StepsOnly, collecting
from runtime.sandbox import ProcessSandbox

AGENTS = 256
STEPS = 3
CALLS = 2 * STEPS
QUICK_REPLY_S = 0.1
SLOW_REPLY_S = 2.0
CODE_STEPS = 6
# More than elsewhere: a round takes two seconds, and what else a machine does comes in longer waves.
BURST_ROUNDS = 7


async def _timed(work: Collecting, lag: Lag) -> float:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lag.watch)
        seconds = await work.run(AGENTS)
        tasks.cancel_scope.cancel()
    return seconds


async def without_code(folder: Path, url: str, lag: Lag) -> float:
    """Seconds until all agents are done, when none of them runs code."""
    async with collecting(folder, url, rollouts=AGENTS, steps=STEPS, sandbox=NoCode(), agent=StepsOnly()) as work:
        return await _timed(work, lag)


async def with_code(folder: Path, url: str, lag: Lag) -> float:
    """Seconds until all agents are done, when each step runs code in the sandbox."""
    async with (
        ProcessSandbox() as sandbox,
        collecting(folder, url, rollouts=AGENTS, steps=CODE_STEPS, sandbox=sandbox, agent=StepsOnly()) as work,
    ):
        await sandbox.ready()  # as the daemon does before it begins
        return await _timed(work, lag)


def measure_without_code() -> list[Figure]:
    """The figures of agents that run no code, on one core: the best of some rounds."""
    rounds = []
    with (
        tempfile.TemporaryDirectory(prefix="cso-bench-") as folder,
        serving(latency=QUICK_REPLY_S, tasks=AGENTS, steps=STEPS) as url,
    ):
        pin(0)
        try:
            for number in range(BURST_ROUNDS):
                lag = Lag()
                rounds.append((anyio.run(without_code, Path(folder) / str(number), url, lag), lag))
        finally:
            unpin()
    seconds, lag = min(rounds, key=lambda one: one[0])
    return [
        Figure(
            name=f"{AGENTS} agents, {CALLS} calls of {QUICK_REPLY_S} s, no code",
            value=seconds,
            unit="s",
            against="the calls alone",
            limit=CALLS * QUICK_REPLY_S,
            at_most=2.0,
        ),
        *lag.figures("no code"),
    ]


def measure_with_code() -> list[Figure]:
    """The figures of agents that run code in the sandbox, on all cores."""
    lag = Lag()
    ideal = 2 * CODE_STEPS * SLOW_REPLY_S
    with tempfile.TemporaryDirectory(prefix="cso-bench-") as folder:
        Path(folder).chmod(0o711)
        with serving(latency=SLOW_REPLY_S, tasks=AGENTS, steps=CODE_STEPS) as url:
            seconds = anyio.run(with_code, Path(folder), url, lag)
    return [
        Figure(
            name=f"{AGENTS} agents, {2 * CODE_STEPS} calls of {SLOW_REPLY_S} s, {CODE_STEPS} code actions",
            value=seconds,
            unit="s",
            against="the calls alone",
            limit=ideal,
            at_most=round(1.05 * ideal, 3),
        ),
        *lag.figures("code"),
    ]


def measure() -> list[Figure]:
    """All figures of this benchmark."""
    return [*measure_without_code(), *measure_with_code()]


if __name__ == "__main__":
    run_alone(measure, __doc__)
