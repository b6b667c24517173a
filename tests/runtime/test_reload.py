"""Reading the configuration anew: what may change takes effect at once, and the rest is refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

import runtime.daemon
from runtime.config.settings import Settings
from runtime.daemon import Daemon, open_daemon
from runtime.errors import ConfigError
from runtime.reload import apply_settings
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.database import Reader
from store.errors import StorageTroubleError
from store.events import BudgetSpent, Event, Resumed, StepCompleted, TaskFinished
from store.spending import Counted
from store.summary import summarise
from tests.acceptance.running import records_of, settings_for
from tests.folders import reachable_folder

WORLD = World.generate(11, 3)
DEADLINE_S = 60


class Working:
    """A daemon at work on a small world, and the events that have been seen of it."""

    def __init__(self, url: str, data: Path, changes: dict[str, object]) -> None:
        self.url = url
        self.data = data
        self.changes = changes
        self.events: list[Event] = []
        self._more = anyio.Event()

    def settings(self, **more: object) -> Settings:
        """The settings with some of them changed; `budget__calls` stands for `budget.calls`."""
        dotted = {name.replace("__", "."): value for name, value in more.items()}
        return settings_for(self.url, self.data, {**self.changes, **dotted})

    def note(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()
        self._more = anyio.Event()

    async def until(self, kind: type[Event], count: int = 1) -> None:
        """Wait for so many events of a kind."""
        with anyio.fail_after(DEADLINE_S):
            while sum(isinstance(event, kind) for event in self.events) < count:
                await self._more.wait()


@contextlib.asynccontextmanager
async def working(**changes: object) -> AsyncIterator[tuple[Working, Daemon]]:
    async with SimulationServer(WORLD) as server:
        with reachable_folder() as folder:
            dotted = {name.replace("__", "."): value for name, value in changes.items()}
            work = Working(server.base_url, folder / "data", dotted)
            opened = open_daemon(work.settings(), {}, search=WorldSearch(WORLD), watchers=[work.note])
            async with opened as daemon, anyio.create_task_group() as tasks:
                await daemon.control.submit(records_of(WORLD, folder))
                tasks.start_soon(lambda: daemon.work(until_drained=False))
                yield work, daemon
                tasks.cancel_scope.cancel()


async def test_a_raised_cap_lets_a_run_go_on_from_where_it_stopped() -> None:
    async with working(budget__calls=20) as (work, daemon):
        await work.until(BudgetSpent)
        assert (await summarise(daemon.database, daemon.run)).budget_spent is not None
        done = await apply_settings(daemon, work.settings(budget__calls=0), {})
        assert done.applied == {"budget.calls": (20, 0)}
        await work.until(TaskFinished, len(WORLD.tasks))
        summary = await summarise(daemon.database, daemon.run)
    assert (summary.budget_spent, summary.tasks_finished) == (None, len(WORLD.tasks))
    assert any(isinstance(event, Resumed) for event in work.events)


async def test_a_cap_that_is_reached_again_is_told_of_again() -> None:
    async with working(budget__calls=15) as (work, daemon):
        await work.until(BudgetSpent)
        await apply_settings(daemon, work.settings(budget__calls=30), {})
        await work.until(BudgetSpent, 2)
    assert [event.cap for event in work.events if isinstance(event, BudgetSpent)] == [15, 30]


async def test_a_cap_that_could_not_hold_is_refused_and_nothing_has_changed() -> None:
    async with working() as (work, daemon):
        before = daemon.settings
        with pytest.raises(ConfigError, match="no price is known for sim-expert, sim-policy, sim-prm"):
            await apply_settings(daemon, work.settings(budget__cost=1.0, run__rollouts=2), {})
        assert daemon.settings == before
        assert daemon.slots.total == before.run.rollouts


async def test_while_the_database_cannot_be_read_nothing_changes_and_the_next_time_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unreadable(_reader: Reader) -> Counted:
        raise StorageTroubleError("descriptors", "too few files", "raise the limit")

    async with working() as (work, daemon):
        before, wanted = daemon.settings, work.settings(budget__calls=10_000, run__rollouts=2)
        monkeypatch.setattr("runtime.models.budget.count_bought", unreadable)
        with pytest.raises(StorageTroubleError):
            await apply_settings(daemon, wanted, {})
        assert (daemon.settings, daemon.slots.total) == (before, before.run.rollouts)
        monkeypatch.undo()
        done = await apply_settings(daemon, wanted, {})
    assert set(done.applied) == {"budget.calls", "run.rollouts"}


async def test_prices_hold_for_calls_from_then_on() -> None:
    price = {"prompt": 1.0, "completion": 2.0, "cached": 0.5}
    async with working(budget__calls=10) as (work, daemon):
        await work.until(BudgetSpent)
        prices = {f"sim-{role}": price for role in ("policy", "expert", "prm")}
        done = await apply_settings(daemon, work.settings(prices=prices, budget__calls=0), {})
        assert done.refused == {}
        assert set(done.applied) == {"budget.calls", *(f"prices.{model}.{key}" for model in prices for key in price)}
        await work.until(TaskFinished, len(WORLD.tasks))
        rows = await daemon.database.fetch("SELECT cost IS NULL AS free FROM calls ORDER BY id")
    assert {row["free"] for row in rows[:10]} == {1}
    assert rows[-1]["free"] == 0


async def test_what_runs_are_made_of_is_refused_by_name_and_the_rest_applied() -> None:
    async with working() as (work, daemon):
        done = await apply_settings(
            daemon, work.settings(agent__max_steps=3, run__rollouts=2, api__port=9, log__level="warning"), {}
        )
        assert done.applied == {"log.level": ("info", "warning"), "run.rollouts": (6, 2)}
        assert done.refused == {
            "agent.max_steps": "it is part of what the runs are: set it back, or stop the daemon and begin a new run",
            "api.port": "it takes effect when the daemon is started again",
        }
        assert daemon.slots.total == 2
        assert daemon.settings.agent.max_steps == 12


async def test_limits_of_an_endpoint_hold_from_then_on_and_one_that_was_found_stays_known() -> None:
    async with working(models__policy__max_in_flight=3) as (work, daemon):
        policy, expert = daemon.endpoints["policy"], daemon.endpoints["expert"]
        found = expert.snapshot().limit
        changes: dict[str, object] = {
            "models__policy__max_in_flight": "adaptive",
            "models__policy__requests_per_minute": 60.0,
            "models__prm__max_in_flight": 5,
        }
        done = await apply_settings(daemon, work.settings(**changes), {})
        assert (set(done.applied), done.refused) == ({key.replace("__", ".") for key in changes}, {})
        assert policy.settings.requests_per_minute == 60.0
        assert policy.snapshot().limit > 3
        assert daemon.endpoints["prm"].snapshot().limit == 5
        assert expert.snapshot().limit >= found


async def test_a_run_that_is_paused_while_caps_are_raised_stays_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(budget__calls=10_000, run__rollouts=1) as (work, daemon):
        await work.until(StepCompleted)

        async def paused_meanwhile(*_: object) -> None:
            await daemon.control.pause(daemon.run.name)

        monkeypatch.setattr(runtime.daemon, "wake", paused_meanwhile)
        await apply_settings(daemon, work.settings(budget__calls=20_000), {})
        assert daemon.run.id not in daemon.bus.runs
        assert not daemon.bus.at_work


async def test_a_cap_that_is_raised_while_work_goes_on_resumes_nothing() -> None:
    async with working(budget__calls=10_000) as (work, daemon):
        await work.until(StepCompleted)
        await apply_settings(daemon, work.settings(budget__calls=20_000), {})
        await work.until(TaskFinished, len(WORLD.tasks))
    assert not [event for event in work.events if isinstance(event, Resumed)]


async def test_a_cap_that_is_set_again_is_told_of_again() -> None:
    async with working(budget__calls=10) as (work, daemon):
        await work.until(BudgetSpent)
        await apply_settings(daemon, work.settings(budget__calls=0), {})
        await work.until(StepCompleted, 6)
        await apply_settings(daemon, work.settings(budget__calls=10), {})
        await work.until(BudgetSpent, 2)
        # A run that comes to rest while the cap is applied is taken up once more, in vain, and comes to rest again.
        with anyio.fail_after(DEADLINE_S):
            while (await summarise(daemon.database, daemon.run)).budget_spent is None:  # noqa: ASYNC110
                await anyio.sleep(0.02)
