"""The collect stage as the daemon runs it: store, bus, handler, executor, agent and endpoint, with tasks to work on.

Only the ends are the benchmarks' own: the model server, and where no code is to run, the sandbox.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from benchmarks.server import ANSWER
from handlers.collect import Collect
from runtime.agents.base import Answer, Context, Decision, StopReason
from runtime.agents.main.agent import MainAgent
from runtime.agents.main.conversation import conversation
from runtime.bus import Bus, Retries
from runtime.config.settings import Run, Settings
from runtime.executor import LocalExecutor
from runtime.handler import HandlerClass
from runtime.models.endpoint import Endpoint
from runtime.models.journal import Models, Role
from runtime.models.settings import EndpointSettings
from runtime.rollout import Budget, Equipment
from runtime.sandbox import Ending, Execution, Limits, Sandbox, Tool
from runtime.search import NoSearch
from runtime.services import Services
from runtime.slots import Slots
from runtime.workspaces import WorkspaceLimits, Workspaces
from store.database import Database
from store.events import Event, TaskFinished, TaskSubmitted
from store.formats.task_files import TaskRecord
from store.runs import create_run
from store.tasks import submit_task
from store.transaction import Transaction


class NoCode:
    """A sandbox that runs nothing: each execution ends at once with the same short output."""

    def expect(self, workspace: Path, *, tools: Collection[str], limits: Limits) -> None:
        """Make nothing ready."""

    def forget(self, workspace: Path) -> None:
        """Keep nothing."""

    async def run(self, code: str, *, workspace: Path, tools: Mapping[str, Tool], limits: Limits) -> Execution:  # noqa: ARG002 - the protocol's
        """Return at once."""
        return Execution(output="1,204 rows, 3 columns\n", error=None, ending=Ending.COMPLETED, seconds=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsOnly(MainAgent):
    """The main agent without its closing call, so that a rollout is exactly its steps."""

    async def conclude(self, context: Context, reason: StopReason) -> Answer:  # noqa: ARG002 - the protocol's
        """Give the right answer."""
        return Answer(output=ANSWER, log="")


@dataclass(frozen=True, slots=True, kw_only=True)
class OneReply(StepsOnly):
    """An agent that asks for nothing but the action of each step, and keeps no progress state."""

    async def think(self, context: Context) -> Decision:
        """Choose the action."""
        messages = conversation(
            system=self.prompts["action"],
            question=context.task.question,
            files=context.files,
            steps=context.steps,
            recent_steps=self.recent_steps,
            closing=(f"Write the action of step {context.index}.",),
        )
        reply = await context.journal.ask(role="policy", module="action", step=context.index, messages=messages)
        return Decision(action=await self.read(reply.content), state="{}", call=reply.call, seconds=reply.latency)


class Collecting:
    """The stage at work on a run."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self._submitted = 0
        self._finished = 0
        self._all_finished = anyio.Event()
        bus.watch(self._note)

    async def run(self, tasks: int) -> float:
        """Submit tasks and wait until it is committed that they are finished; the seconds that it took."""
        started = time.perf_counter()
        self._all_finished = anyio.Event()
        first, self._submitted = self._submitted, self._submitted + tasks
        await self.database.write(partial(_submit, first=first, count=tasks))
        await self._all_finished.wait()
        return time.perf_counter() - started

    def _note(self, event: Event) -> None:
        self._finished += isinstance(event, TaskFinished)
        if self._finished == self._submitted:
            self._all_finished.set()


def _submit(transaction: Transaction, *, first: int, count: int) -> None:
    for number in range(first, first + count):
        record = TaskRecord(f"task-{number}", f"What is the total of table {number}?", ANSWER, None, {})
        submit_task(transaction, run=1, record=record)


@contextlib.asynccontextmanager
async def collecting(
    folder: Path, url: str, *, rollouts: int, steps: int, sandbox: Sandbox, agent: MainAgent
) -> AsyncIterator[Collecting]:
    """The stage, with the bus at work, for `rollouts` at once of `steps` steps each."""
    settings = Settings(run=Run(data=folder, rollouts=rollouts))
    bus = Bus(retries=Retries(attempts=1), capacity=settings.bus.queue)
    endpoint = EndpointSettings(name="policy", base_url=url, max_in_flight=rollouts)
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database(folder, subscriptions={TaskSubmitted.kind: [Collect.name]}, on_commit=bus.on_commit)
        )
        await database.write(partial(create_run, name="benchmark", digest="", identity={}))
        bus.admit([1])
        role = Role(
            endpoint=await stack.enter_async_context(Endpoint(endpoint)),
            model="m",
            temperature=0.7,
            top_p=0.95,
            max_tokens=4096,
            send_seed=True,
        )
        models = Models({"policy": role}, database=database, seed=7, trace_headers=True)
        workspaces = Workspaces(folder / "workspaces", WorkspaceLimits())
        await workspaces.clear()
        equipment = Equipment(
            agent=agent,
            budget=Budget(max_steps=steps),
            database=database,
            models=models,
            sandbox=sandbox,
            limits=Limits(),
            search=NoSearch(),
            search_limit=7,
            workspaces=workspaces,
        )
        executor = LocalExecutor(equipment, Slots(rollouts))
        services = Services(settings=settings, database=database, models=models, agent=agent, executor=executor)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        make: HandlerClass = Collect
        tasks.start_soon(bus.run, database, [make(services)])
        yield Collecting(database, bus)
        tasks.cancel_scope.cancel()
