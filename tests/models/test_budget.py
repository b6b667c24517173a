"""The counters of a budget, and who has to wait for whom."""

from __future__ import annotations

import anyio
import pytest

from runtime.errors import BudgetSpentError
from runtime.models.budget import Budget, Caps
from store.events import CallCompleted, TaskFinished

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
    async with budget.purchase(run=RUN, task=task, ends_step=False):
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


async def test_a_call_that_brings_nothing_makes_room_for_one_that_waits() -> None:
    budget = Budget(run=Caps(calls=1))
    waiting = anyio.Event()

    async def fail() -> None:
        async with budget.purchase(run=RUN, task=TASK, ends_step=False):
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
        async with budget.purchase(run=RUN, task=TASK, ends_step=False):
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
    async with budget.purchase(run=RUN, task=TASK, ends_step=True):
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
