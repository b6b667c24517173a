"""A budget stops new work and nothing else, and a greater one goes on from there as if nothing had been."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.simulation.behaviour import Behaviour
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.database import FILE_NAME
from store.events import BudgetSpent, Event
from store.spending import add_up
from store.summary import Summary
from tests.acceptance.facts import facts_of
from tests.acceptance.running import records_of, settings_for, work
from tests.folders import reachable_folder

PRICES = {f"sim-{role}": {"prompt": 2.0, "completion": 8.0, "cached": 0.5} for role in ("policy", "expert", "prm")}
# What one step under way may cost beyond a cap: its action, since worlds' code asks a model once at most.
_TO_FINISH = 2
_ROLLOUTS = 6


@dataclass(slots=True)
class Bench:
    """A small world that is worked on under one budget after the other."""

    world: World
    server: SimulationServer
    data: Path
    events: list[Event]

    async def work(self, **changes: object) -> Summary:
        """Work until nothing is left that the budget allows; `task_calls` stands for `budget.task_calls`."""
        dotted = {name if name == "prices" else f"budget.{name}": value for name, value in changes.items()}
        return await work(
            settings_for(self.server.base_url, self.data, dotted),
            records_of(self.world, self.data),
            search=WorldSearch(self.world),
            watchers=[self.events.append],
        )

    @property
    def spent(self) -> list[BudgetSpent]:
        return [event for event in self.events if isinstance(event, BudgetSpent)]


@contextlib.asynccontextmanager
async def bench(data: Path) -> AsyncIterator[Bench]:
    world = World.generate(11, 5)
    async with SimulationServer(world, behaviour=Behaviour(latency=0.004, jitter=0.003)) as server:
        yield Bench(world, server, data, [])


@pytest.fixture(scope="module")
async def undisturbed() -> AsyncIterator[Path]:
    """The data directory of the same work without a budget."""
    with reachable_folder() as folder:
        async with bench(folder / "data") as whole:
            await whole.work()
            yield whole.data


def rows(data: Path, sql: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(data / FILE_NAME)) as connection:
        return connection.execute(sql).fetchall()


def calls(summary: Summary) -> int:
    return sum(summary.calls.values())


async def test_at_a_cap_on_calls_nothing_new_starts_and_nothing_counts_as_a_failure(data: Path) -> None:
    async with bench(data) as some:
        summary = await some.work(calls=40)
    assert 40 <= calls(summary) <= 40 + _TO_FINISH * _ROLLOUTS
    assert summary.budget_spent is not None
    assert (summary.budget_spent.setting, summary.budget_spent.cap) == ("budget.calls", 40)
    assert summary.owed > 0
    assert (summary.put_off, summary.set_aside) == (0, [])
    assert [(event.task, event.setting) for event in some.spent] == [(None, "budget.calls")]
    assert rows(data, "SELECT count(*) FROM trajectories WHERE outcome = 'error'") == [(0,)]
    assert rows(data, "SELECT count(*) FROM deliveries WHERE attempts > 0 OR dead > 0") == [(0,)]


async def test_steps_under_way_at_the_cap_are_committed(data: Path) -> None:
    async with bench(data) as some:
        await some.work(calls=40)
    half_done = rows(
        data,
        "SELECT c.trajectory, c.step FROM calls c WHERE c.module = 'action' AND c.role = 'policy' AND NOT EXISTS"
        " (SELECT 1 FROM steps s WHERE s.trajectory = c.trajectory AND s.step = c.step)",
    )
    assert half_done == []


async def test_the_same_budget_again_buys_nothing(data: Path) -> None:
    async with bench(data) as some:
        first = await some.work(calls=40)
        again = await some.work(calls=40)
    assert calls(again) == calls(first)
    assert again.budget_spent is not None


async def test_raised_step_by_step_the_run_ends_as_one_without_a_budget(data: Path, undisturbed: Path) -> None:
    async with bench(data) as some:
        for cap in (25, 60, 90):
            assert (await some.work(calls=cap)).budget_spent is not None
        summary = await some.work()
        paid_for = len(some.server.record.entries)
    assert summary.budget_spent is None
    assert summary.tasks_finished == summary.tasks
    assert facts_of(data).differences(facts_of(undisturbed)) == []
    assert calls(summary) == paid_for


async def test_a_cap_on_cost_is_overshot_by_little(data: Path) -> None:
    async with bench(data) as some:
        summary = await some.work(cost=0.08, prices=PRICES)
    spent = add_up(summary.spending)
    assert summary.budget_spent is not None
    assert summary.budget_spent.setting == "budget.cost"
    assert spent.cost is not None
    assert 0.08 <= spent.cost < 0.11


async def test_a_cap_on_tokens_of_the_run_holds(data: Path) -> None:
    async with bench(data) as some:
        summary = await some.work(tokens=50_000)
    assert summary.budget_spent is not None
    assert 50_000 <= add_up(summary.spending).tokens < 65_000


async def test_a_task_that_has_spent_its_budget_rests_and_the_others_finish(data: Path, undisturbed: Path) -> None:
    async with bench(data) as some:
        summary = await some.work(task_calls=30)
        resting = {event.task for event in some.spent}
        assert None not in resting
        assert 0 < len(resting) == summary.resting_tasks
        assert summary.tasks_finished == summary.tasks - summary.resting_tasks > 0
        assert (summary.budget_spent, summary.owed, summary.set_aside) == (None, 0, [])
        assert len(some.spent) == len(resting)
        summary = await some.work(task_calls=1000)
    assert (summary.resting_tasks, summary.tasks_finished) == (0, 5)
    assert facts_of(data).differences(facts_of(undisturbed)) == []


async def test_a_cap_on_cost_without_the_price_of_a_model_is_refused(data: Path) -> None:
    known: Mapping[str, object] = {"sim-policy": {"prompt": 1.0, "completion": 1.0}}
    async with bench(data) as some:
        with pytest.raises(ConfigError, match="no price is known for sim-expert, sim-prm"):
            await some.work(cost=1.0, prices=known)
        assert some.server.record.entries == []


async def test_costs_are_recorded_when_paid_and_unknown_ones_are_not_zero(data: Path) -> None:
    async with bench(data) as some:
        await some.work(calls=110, prices={"sim-policy": {"prompt": 1.0, "completion": 3.0, "cached": 0.25}})
    paid = rows(data, "SELECT prompt_tokens, cached_tokens, completion_tokens, cost FROM calls WHERE role = 'policy'")
    assert paid
    for prompt, cached, completion, cost in paid:
        assert isinstance(prompt, int)
        assert isinstance(cached, int)
        assert isinstance(completion, int)
        assert cost == round((prompt - cached) * 1.0 + cached * 0.25 + completion * 3.0)
    assert rows(data, "SELECT DISTINCT cost FROM calls WHERE role != 'policy'") == [(None,)]
