"""The counters of a budget, and who has to wait for whom."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from runtime.errors import BudgetSpentError
from runtime.models.budget import Budget, Caps
from runtime.models.errors import EndpointUnavailable
from store.calls import CallRecord, Place, record_call
from store.database import Database
from store.events import CallCompleted, Event, TaskFinished, TaskSubmitted
from store.formats.task_files import TaskRecord
from store.runs import create_run
from store.tasks import submit_task
from store.trajectories import begin_trajectory
from store.transaction import Transaction
from tests.models.simulated_server import seeded

RUN, TASK = 1, 7


def completed(*, tokens: int = 10, cost: int | None = None, task: int = TASK, run: int = RUN) -> CallCompleted:
    return CallCompleted(
        run=run,
        task=task,
        trajectory=1,
        step=0,
        role="policy",
        module="plan",
        prompt_tokens=tokens - 1,
        completion_tokens=1,
        cost=cost,
    )


async def buy(budget: Budget, *, task: int = TASK, tokens: int = 10, cost: int | None = None) -> None:
    with await budget.purchase(run=RUN, task=task, ends_step=False):
        await anyio.lowlevel.checkpoint()
        budget.note(completed(tokens=tokens, cost=cost, task=task))


async def test_without_a_cap_everything_is_bought() -> None:
    budget = Budget()
    for _ in range(100):
        await buy(budget)
    assert budget.spent(run=RUN, task=TASK) is None


async def test_calls_side_by_side_do_not_overshoot_a_cap_on_calls() -> None:
    budget = Budget(run=Caps(calls=5))
    bought: list[int] = []
    refused: list[BudgetSpentError] = []

    async def one(number: int) -> None:
        try:
            await buy(budget)
        except BudgetSpentError as error:
            refused.append(error)
        else:
            bought.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
    assert (len(bought), len(refused)) == (5, 15)
    assert str(refused[0]) == "budget.calls is spent: 5 of 5"
    assert refused[0].task is None


@pytest.mark.parametrize("task", [None, TASK])
async def test_a_refusal_stands_until_its_cap_is_raised(task: int | None) -> None:
    budget = Budget()
    await buy(budget)
    error = BudgetSpentError(run=RUN, task=task, setting="budget.calls", cap=1, spent=1)
    for calls, stands in ((1, True), (2, False), (0, False)):
        budget._run_caps = budget._task_caps = Caps(calls=calls)
        assert budget.stands(error) is stands


async def test_a_call_that_brings_nothing_makes_room_for_one_that_waits() -> None:
    budget = Budget(run=Caps(calls=1))
    waiting = anyio.Event()

    async def fail() -> None:
        with await budget.purchase(run=RUN, task=TASK, ends_step=False):
            waiting.set()
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            await waiting.wait()
            await buy(budget)
    with pytest.raises(BudgetSpentError):
        await buy(budget)


async def test_calls_on_their_way_count_with_the_mean_of_cost_so_far() -> None:
    budget = Budget(run=Caps(micros=1000))
    await buy(budget, cost=400)
    await buy(budget, cost=400)
    entered: list[int] = []

    async def one() -> None:
        with await budget.purchase(run=RUN, task=TASK, ends_step=False):
            entered.append(len(entered))
            await anyio.sleep(60)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        # One of 400 may bring it to 1200; a second one would be beyond the cap already.
        assert len(entered) == 1
        tasks.cancel_scope.cancel()


async def test_what_ends_a_step_is_bought_whatever_has_been_spent() -> None:
    budget = Budget(run=Caps(calls=1))
    await buy(budget)
    with await budget.purchase(run=RUN, task=TASK, ends_step=True):
        budget.note(completed())
    assert budget.spent(run=RUN, task=TASK) is not None


async def test_a_task_that_has_spent_its_budget_does_not_hold_up_another() -> None:
    budget = Budget(task=Caps(tokens=25))
    for _ in range(3):
        await buy(budget)
    with pytest.raises(BudgetSpentError, match=r"budget\.task_tokens is spent: 30 of 25") as caught:
        await buy(budget)
    assert caught.value.task == TASK
    assert budget.spent_tasks() == [TASK]
    await buy(budget, task=TASK + 1)
    budget.note(TaskFinished(run=RUN, task=TASK))
    assert budget.spent_tasks() == []


async def test_an_unknown_cost_is_no_cost() -> None:
    budget = Budget(run=Caps(micros=1))
    await buy(budget, cost=None)
    assert budget.spent(run=RUN, task=TASK) is None
    await buy(budget, cost=2_500_000)
    assert str(budget.spent(run=RUN, task=TASK)) == "budget.cost is spent: 2.5 of 1e-06"


async def test_under_a_cap_on_tokens_the_first_call_goes_alone_since_nothing_is_known_of_its_like() -> None:
    budget = Budget(run=Caps(tokens=100))
    entered: list[int] = []
    land = anyio.Event()

    async def one() -> None:
        with await budget.purchase(run=RUN, task=TASK, ends_step=False):
            entered.append(len(entered))
            await land.wait()
            budget.note(completed(tokens=30))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one)
            await anyio.wait_all_tasks_blocked()
            assert len(entered) == 1
            land.set()
    assert len(entered) == 3


async def test_every_wait_ends_however_the_calls_under_way_end() -> None:
    budget = Budget(run=Caps(calls=60), task=Caps(tokens=100))
    random = seeded(9)
    ends: list[str] = []

    def fail() -> None:
        raise EndpointUnavailable("gone", endpoint="policy")

    async def one(scope: anyio.CancelScope) -> None:
        task = random.randrange(5)
        with scope:
            try:
                with await budget.purchase(run=RUN, task=task, ends_step=random.random() < 0.1):
                    for _ in range(random.randrange(4)):
                        await anyio.lowlevel.checkpoint()
                    if random.random() < 0.3:
                        fail()
                    budget.note(completed(task=task, tokens=random.randrange(1, 20)))
            except (BudgetSpentError, EndpointUnavailable) as error:
                ends.append(type(error).__name__)
                return
            ends.append("bought")
            return
        ends.append("cancelled")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            scopes = [anyio.CancelScope() for _ in range(300)]
            for scope in scopes:
                tasks.start_soon(one, scope)
            for scope in random.sample(scopes, 100):
                await anyio.lowlevel.checkpoint()
                scope.cancel()
    assert len(ends) == 300
    assert {"bought", "BudgetSpentError", "EndpointUnavailable"} <= set(ends)


@dataclass(slots=True)
class Ledger:
    """A database with a task whose calls are bought here; `told` are the events of its commits."""

    database: Database
    told: list[Event]
    trajectory: int = 0

    async def buy(self, number: int, *, tokens: int = 10) -> None:
        """Commit so many calls, of which nobody has been told yet."""
        for _ in range(number):
            place = Place(trajectory=self.trajectory, step=0, role="policy", module="plan", ordinal=len(self.told))
            record = CallRecord(
                place=place,
                digest=b"d",
                content="",
                reasoning="",
                finish_reason="stop",
                prompt_tokens=tokens,
                completion_tokens=0,
                cached_tokens=0,
                latency=0.0,
                attempts=1,
                endpoint="policy",
                cost=None,
            )
            await self.database.write(partial(record_call, run=RUN, task=1, messages=(), record=record))


@contextlib.asynccontextmanager
async def ledger(folder: Path) -> AsyncIterator[Ledger]:
    told: list[Event] = []

    def begin(transaction: Transaction) -> int:
        run = create_run(transaction, name="r", digest="d", identity={}).id
        submit_task(transaction, run=run, record=TaskRecord("t", "question", "answer", None, {}))
        return begin_trajectory(transaction, task=1, ordinal=0)

    subscribed = {TaskSubmitted.kind: ["collect"]}
    async with Database(folder, subscriptions=subscribed, on_commit=told.extend) as database:
        trajectory = await database.write(begin)
        told.clear()
        with anyio.fail_after(20):
            yield Ledger(database, told, trajectory)


async def test_what_was_bought_before_there_was_a_cap_counts_under_it(tmp_path: Path) -> None:
    async with ledger(tmp_path) as books:
        await books.buy(3)
        budget = Budget()
        await budget.load(books.database)
        await books.buy(2)
        for event in books.told[3:]:
            budget.note(event)
        assert budget.spent(run=RUN, task=1) is None
        await budget.adjust(books.database, run=Caps(calls=5), task=Caps())
        assert str(budget.spent(run=RUN, task=1)) == "budget.calls is spent: 5 of 5"
        await budget.adjust(books.database, run=Caps(), task=Caps(tokens=40))
        assert str(budget.spent(run=RUN, task=1)) == "budget.task_tokens is spent: 50 of 40"
        await budget.adjust(books.database, run=Caps(calls=6), task=Caps(tokens=51))
        assert budget.spent(run=RUN, task=1) is None


async def test_a_call_that_the_count_has_seen_before_its_event_is_told_counts_once(tmp_path: Path) -> None:
    async with ledger(tmp_path) as books:
        await books.buy(3)
        budget = Budget(run=Caps(calls=5))
        await budget.load(books.database)
        for event in books.told:
            budget.note(event)
        await books.buy(1)
        budget.note(books.told[-1])
        assert budget.spent(run=RUN, task=1) is None
        await books.buy(1)
        budget.note(books.told[-1])
        assert str(budget.spent(run=RUN, task=1)) == "budget.calls is spent: 5 of 5"


async def test_a_call_that_waits_goes_once_the_cap_is_raised(tmp_path: Path) -> None:
    async with ledger(tmp_path) as books:
        budget = Budget(run=Caps(calls=1))
        land, waited = anyio.Event(), anyio.Event()

        async def hold() -> None:
            with await budget.purchase(run=RUN, task=1, ends_step=False):
                await land.wait()

        async def wait() -> None:
            with await budget.purchase(run=RUN, task=1, ends_step=False):
                waited.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not waited.is_set()
            await budget.adjust(books.database, run=Caps(calls=2), task=Caps())
            await waited.wait()
            land.set()
