"""The driver: starts workers, ends them at seeded random moments, and holds what they leave to what must hold.

The models' server runs in this process, so a moment is "so many calls after the start, and a little later", and what
was asked is known from the other side. Each life of a worker is checked when it is over, and the data directory once
the work is done:

- a request whose reply the journal had when a worker started is not made by that worker;
- no worker makes a request twice;
- no process outlives the worker that started it;
- the facts are those of work that was left alone.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import anyio
import anyio.abc

from runtime.simulation.behaviour import Behaviour
from runtime.simulation.record import Entry
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import write_tasks
from tests.acceptance.facts import Facts, RequestKey, facts_of, paid_requests
from tests.crash.processes import descendants, wait_until_gone
from tests.crash.worker import DONE, Plan
from tests.folders import reachable_folder

LIFE_DEADLINE_S = 90
_ROOT = Path(__file__).parents[2]
# Replies take long enough for several to be under way at any moment, and the commits of others with them.
BEHAVIOUR = Behaviour(latency=0.012, jitter=0.008)
_EARLY_SHARE = 0.12
_LONGEST_START_S = 1.2
_MOST_CALLS = 20
_LONGEST_AFTERTHOUGHT_S = 0.06
_STAGES = ("collect", "resample", "verify")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When to end a worker: after so many calls of a stage (None: after none), and so many seconds later.

    Where the stage has not so many calls left, three times as many calls of any stage will do.
    """

    stage: str | None
    calls: int
    seconds: float


def draw_moment(random: Random) -> Moment:
    """A moment anywhere in a life: mostly in the middle of a stage, sometimes while the worker starts."""
    if random.random() < _EARLY_SHARE:
        return Moment(stage=None, calls=0, seconds=random.uniform(0, _LONGEST_START_S))
    seconds = random.uniform(0, _LONGEST_AFTERTHOUGHT_S)
    return Moment(stage=random.choice(_STAGES), calls=random.randint(1, _MOST_CALLS), seconds=seconds)


def stage_of(entry: Entry) -> str:
    """The stage of the method that made a request."""
    if entry.role in ("expert", "prm"):
        return "resample"
    return "verify" if "@" in entry.headers["trajectory"] else "collect"


def key_of(entry: Entry) -> RequestKey:
    """What was asked, and where from."""
    headers = entry.headers
    return entry.digest, headers["trajectory"], headers["step"], headers["role"], headers["module"]


@dataclass(slots=True)
class Report:
    """What came of ending workers again and again; `problems` is empty when all that must hold held."""

    endings: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    repeated: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take another report's figures in."""
        self.endings += other.endings
        self.stages += other.stages
        self.requests += other.requests
        self.repeated += other.repeated
        self.problems += other.problems

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {count}" for stage, count in sorted(self.stages.items()))
        return (
            f"{self.endings} endings ({stages}); {self.requests} requests, {self.repeated} of them made again"
            f" because they were in flight; {len(self.problems)} problems"
        )


@dataclass(slots=True)
class Campaign:
    """One piece of work, done by as many workers as it takes."""

    plan: Plan
    server: SimulationServer
    random: Random
    number: signal.Signals
    report: Report = field(default_factory=Report)

    async def run(self, endings: int) -> Facts:
        """End workers until so many have been ended or the work is done; the facts that are left."""
        while self.report.endings < endings and not await self._live(draw_moment(self.random)):
            pass
        if not await self._live(None):
            self.report.problems.append("the last worker did not finish")
        self._count_requests()
        return facts_of(self.plan.data)

    async def _live(self, moment: Moment | None) -> bool:
        """One life of a worker; whether it came to the end of the work."""
        paid, first = paid_requests(self.plan.data), len(self.server.record.entries)
        with anyio.fail_after(LIFE_DEADLINE_S):
            with self.plan.log.open("ab") as log:
                process = await anyio.open_process(self.plan.command(), stderr=log, cwd=_ROOT)
            async with process:
                if moment is not None:
                    await self._end_at(process, moment, first)
                status = await process.wait()
                output = b"".join([piece async for piece in process.stdout]) if process.stdout else b""
            # A call of a worker that is gone is over when the server has noticed.
            await self.server.until(lambda traffic: traffic.in_flight[""] == 0)
        self._check_life(self.server.record.entries[first:], paid)
        done = output.decode().strip() == DONE
        if not done and status not in self._expected(moment):
            said = self.plan.log.read_text()[-2000:]
            self.report.problems.append(f"a worker ended with status {status}, told {moment}; it said: {said}")
        return done

    async def _end_at(self, process: anyio.abc.Process, moment: Moment, first: int) -> None:
        """End a worker at a moment, unless it comes to its end before."""

        async def watch() -> None:
            await process.wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            if moment.stage is not None:
                await self.server.until(lambda _: self._has_come(moment, first))
            await anyio.sleep(moment.seconds)
            started = descendants(process.pid)
            self._note(first)
            process.send_signal(self.number)
            with anyio.CancelScope(shield=True):
                await process.wait()
                left = await wait_until_gone(started)
            self.report.problems += [f"process {one} outlived its worker" for one in left]
            tasks.cancel_scope.cancel()

    def _has_come(self, moment: Moment, first: int) -> bool:
        fresh = self.server.record.entries[first:]
        return len(fresh) >= 3 * moment.calls or sum(stage_of(one) == moment.stage for one in fresh) >= moment.calls

    def _note(self, first: int) -> None:
        """Count an ending under the stages that it hit: those with a call in flight, or the start."""
        self.report.endings += 1
        fresh = self.server.record.entries[first:]
        going = {stage_of(entry) for entry in fresh if entry.status is None}
        self.report.stages.update(going or {"between calls" if fresh else "start"})

    def _expected(self, moment: Moment | None) -> set[int]:
        """The statuses with which a worker may end that has not come to the end of the work."""
        if moment is None:
            return set()
        if self.number is signal.SIGKILL:
            return {-signal.SIGKILL}
        # Before it listens for signals there is nothing to stop.
        return {0} if moment.stage else {0, -self.number}

    def _check_life(self, entries: Iterable[Entry], paid: set[RequestKey]) -> None:
        made = Counter(key_of(entry) for entry in entries)
        self.report.problems += [f"paid for again: {key}" for key in made if key in paid]
        self.report.problems += [f"made {count}× in one life: {key}" for key, count in made.items() if count > 1]

    def _count_requests(self) -> None:
        made = Counter(key_of(entry) for entry in self.server.record.entries)
        self.report.requests += made.total()
        self.report.repeated += made.total() - len(made)


@asynccontextmanager
async def campaign(*, seed: int, world: int, tasks: int, number: signal.Signals) -> AsyncIterator[Campaign]:
    """A campaign over a fresh data directory.

    Args:
        seed: of the moments.
        world: seed of the world, which has so many `tasks`.
        number: the signal that ends workers.
    """
    with reachable_folder() as folder:
        plan = Plan(url="", data=folder / "data", seed=world, tasks=tasks)
        async with SimulationServer(plan.world, behaviour=BEHAVIOUR) as server:
            write_tasks(plan.world, plan.task_file.parent)
            plan = Plan(url=server.base_url, data=plan.data, seed=world, tasks=tasks)
            yield Campaign(plan, server, Random(f"{seed} {world}"), number)  # noqa: S311 - repeatable is the point


async def undisturbed(*, world: int, tasks: int) -> Facts:
    """The facts of the same work, left alone."""
    async with campaign(seed=0, world=world, tasks=tasks, number=signal.SIGKILL) as left_alone:
        return await left_alone.run(0)


async def disturbed(
    *, seed: int, world: int, tasks: int, number: signal.Signals, endings: int, expected: Facts
) -> Report:
    """End workers on one piece of work up to so many times, and compare with the work that was left alone."""
    async with campaign(seed=seed, world=world, tasks=tasks, number=number) as one:
        facts = await one.run(endings)
        report = one.report
    report.problems += facts.differences(expected)
    report.problems += facts.damage
    if facts.owed:
        report.problems.append(f"{facts.owed} deliveries are still owed")
    if number is signal.SIGTERM and report.repeated:
        report.problems.append(f"{report.repeated} requests were made again after SIGTERM")
    return report
