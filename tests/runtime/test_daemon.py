"""The daemon: opens what a run needs or says what is missing, works until nothing is left, and goes on later."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TextIO

import anyio
import pytest
from structlog.testing import capture_logs

from runtime.cli.ending import exit_code
from runtime.cli.exits import EXIT_FAILED
from runtime.cli.working import Worked
from runtime.config.settings import Settings
from runtime.daemon import open_daemon
from runtime.errors import ConfigError
from runtime.runs import RunChangedError
from store.errors import DatabaseGoneError, DataLockedError
from store.events import Event, Resumed
from store.summary import summarise
from store.tasks import ChangedTaskError
from store.trajectories import begin_trajectory
from store.transaction import Transaction
from tests.acceptance.running import settings_for, work
from tests.acceptance.scripted import Ask, Script, scripted_models, task
from tests.crash.processes import descendants, wait_until_gone
from tests.store.filling import new_call

DEADLINE_S = 60
NOBODY = "http://127.0.0.1:9/v1"
SCRIPT = Script(actions=("print(1)", "stop('42', '')"))


async def test_settings_without_endpoints_are_refused_with_what_to_set(data: Path) -> None:
    settings = Settings.model_validate({"run": {"data": data}})
    with pytest.raises(ConfigError, match=r"models\.policy\.base_url.*cso demo"):
        async with open_daemon(settings, {}):
            pass
    assert not await anyio.Path(data).exists()


async def test_the_judge_needs_an_endpoint_only_where_a_model_judges(data: Path) -> None:
    changes = {"models.judge.base_url": "", "judge.method": "model"}
    with pytest.raises(ConfigError, match=r"models\.judge\.base_url"):
        async with open_daemon(settings_for(NOBODY, data, changes), {}):
            pass
    async with open_daemon(settings_for(NOBODY, data, {"models.judge.base_url": ""}), {}) as daemon:
        assert daemon.run.name == "test"


async def test_names_that_nothing_goes_by_are_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.name.*'unheard-of'"):
        async with open_daemon(settings_for(NOBODY, data, {"agent.name": "unheard-of"}), {}):
            pass
    with pytest.raises(ConfigError, match=r"search\.backend.*'unheard-of'"):
        async with open_daemon(settings_for(NOBODY, data, {"search.backend": "unheard-of"}), {}):
            pass


async def test_one_data_directory_has_one_daemon(data: Path) -> None:
    with anyio.fail_after(DEADLINE_S):
        async with open_daemon(settings_for(NOBODY, data), {}):
            with pytest.raises(DataLockedError):
                async with open_daemon(settings_for(NOBODY, data), {}):
                    pass
        async with open_daemon(settings_for(NOBODY, data), {}):
            pass


async def test_a_run_goes_on_only_under_the_settings_that_it_was_begun_with(data: Path) -> None:
    async with open_daemon(settings_for(NOBODY, data), {}) as daemon:
        await daemon.control.submit([task("a")])
        trajectory = await daemon.database.write(partial(begin_trajectory, task=1, ordinal=0))
        await new_call(daemon.database, trajectory, step=0)
    changes = {"critical.good_min": 0.8, "verify.rollouts": 2}
    with pytest.raises(RunChangedError, match=r"critical\.good_min") as caught:
        async with open_daemon(settings_for(NOBODY, data, changes), {}):
            pass
    assert caught.value.changes == {"critical.good_min": (0.6, 0.8), "verify.rollouts": (1, 2)}
    async with open_daemon(settings_for(NOBODY, data, {**changes, "run.name": "other"}), {}) as daemon:
        assert daemon.run.name == "other"


async def test_a_task_that_is_handed_in_again_is_known_and_a_changed_one_refused(data: Path) -> None:
    async with open_daemon(settings_for(NOBODY, data), {}) as daemon:
        first = await daemon.control.submit([task("a"), task("b")])
        again = await daemon.control.submit([task("b"), task("c")])
        assert (first.new, first.known, again.new, again.known) == (2, 0, 1, 1)
        with pytest.raises(ChangedTaskError, match="'a'"):
            await daemon.control.submit([task("a", answer="another")])


async def test_a_task_whose_file_is_missing_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    async with open_daemon(settings_for(NOBODY, data), {}) as daemon:
        with pytest.raises(ConfigError, match=r"'a'.*nowhere\.csv"):
            await daemon.control.submit([task("a", file=tmp_path / "nowhere.csv")])


async def test_work_that_is_cancelled_keeps_the_replies_under_way_and_goes_on_from_there(data: Path) -> None:
    asked, release = anyio.Event(), anyio.Event()

    async def slow(ask: Ask) -> str | int:
        if (ask.module, ask.step) == ("action", 1):
            asked.set()
            await release.wait()
        return await SCRIPT.answer(ask)

    seen: list[Event] = []
    async with scripted_models(slow) as models:
        settings = settings_for(models.url, data)
        with anyio.fail_after(DEADLINE_S):
            async with open_daemon(settings, {}) as daemon:
                await daemon.control.submit([task()])
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(lambda: daemon.work(until_drained=True))
                    await asked.wait()
                    tasks.cancel_scope.cancel()
                    release.set()
        summary = await work(settings, [task()], watchers=[seen.append])
    assert summary.trajectories.success == 1
    places = [(ask.module, ask.step) for ask in models.of("policy")]
    assert places == [("plan", 0), ("action", 0), ("plan", 1), ("action", 1), ("end", -1)]
    (resumed,) = (event for event in seen if isinstance(event, Resumed))
    assert (resumed.deliveries, resumed.trajectories, resumed.steps, resumed.calls) == (1, 1, 1, 4)


async def test_nothing_is_left_behind_when_the_daemon_is_closed(data: Path) -> None:
    async with scripted_models(SCRIPT.answer) as models:
        settings = settings_for(models.url, data)
        with anyio.fail_after(DEADLINE_S):
            async with open_daemon(settings, {}) as daemon:
                await daemon.control.submit([task()])
                await daemon.work(until_drained=True)
                started = descendants(os.getpid())
                assert started
    assert await wait_until_gone(started) == []
    left = [path.name async for path in anyio.Path(data).rglob("*") if await path.is_dir()]
    assert not any(name.isdecimal() for name in left)


def test_the_number_of_a_process_that_has_gone_is_no_daemon_to_give_way_to(data: Path) -> None:
    data.mkdir(parents=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(DEADLINE_S)
    (data / "daemon.json").write_text(f'{{"pid": {gone.pid}, "url": "", "started": 0}}')
    file = data / "lock"
    file.write_text(f"{gone.pid}\n")

    async def open_and_leave(looking: TextIO) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close_soon, looking)
            async with open_daemon(settings_for(NOBODY, data), {}) as daemon:
                assert daemon.run.name == "test"

    async def close_soon(looking: TextIO) -> None:
        await anyio.sleep(0.2)
        looking.close()

    with file.open() as looking:  # as a command does that asks whether there is a daemon
        fcntl.flock(looking, fcntl.LOCK_SH)
        anyio.run(open_and_leave, looking)


async def test_an_idle_daemon_finds_out_that_its_database_is_gone(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.daemon._PLACE_LOOK_S", 0.02)

    async def lose_it_at_work() -> None:
        async with open_daemon(settings_for(NOBODY, data), {}) as daemon, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(daemon.work, until_drained=False))
            await anyio.sleep(0.1)
            await anyio.Path(data).rename(data.with_name("elsewhere"))

    with anyio.fail_after(30), pytest.raises(ExceptionGroup) as caught:
        await lose_it_at_work()
    assert caught.group_contains(DatabaseGoneError)


async def test_what_rested_for_its_budget_goes_on_when_its_run_is_resumed_after_the_cap_was_raised(
    data: Path,
) -> None:
    async with scripted_models(SCRIPT.answer) as models:
        with anyio.fail_after(60):
            async with open_daemon(settings_for(models.url, data, {"budget.task_calls": 1}), {}) as daemon:
                await daemon.control.submit([task()])
                await daemon.work(until_drained=True)
                assert (await summarise(daemon.database, daemon.run)).tasks_finished == 0
                await daemon.control.pause(daemon.run.name)
            settings = settings_for(models.url, data, {"budget.task_calls": 1000})
            async with open_daemon(settings, {}, every_run=True) as daemon, anyio.create_task_group() as tasks:
                tasks.start_soon(partial(daemon.work, until_drained=False))
                assert await daemon.control.resume(daemon.run.name)
                while not (await summarise(daemon.database, daemon.run)).tasks_finished:  # noqa: ASYNC110 - as committed
                    await anyio.sleep(0.02)
                assert [one.deliveries for one in daemon.resumed] == [1]
                tasks.cancel_scope.cancel()


async def test_who_resumes_a_run_has_endpoints_asked_that_had_stopped_it(data: Path) -> None:
    async def refuse(_ask: Ask) -> int:
        return 401

    with anyio.fail_after(60):
        async with (
            scripted_models(refuse) as models,
            open_daemon(settings_for(models.url, data), {}) as daemon,
            anyio.create_task_group() as tasks,
        ):
            policy = daemon.endpoints["policy"]
            await daemon.control.submit([task()])
            tasks.start_soon(partial(daemon.work, until_drained=False))
            while not policy.snapshot().stopped:  # noqa: ASYNC110 - as the endpoint answers
                await anyio.sleep(0.02)
            await daemon.control.pause(daemon.run.name)
            assert policy.snapshot().stopped
            await daemon.control.resume(daemon.run.name)
            assert not policy.snapshot().stopped
            tasks.cancel_scope.cancel()


async def test_what_is_owed_to_a_handler_that_is_not_installed_is_told_of_and_keeps_nobody(data: Path) -> None:
    def owe_a_stranger(transaction: Transaction) -> None:
        transaction.execute(
            "INSERT INTO deliveries (handler, event, run, task) SELECT 'stranger', event, run, task FROM deliveries"
        )

    with anyio.fail_after(60):
        async with (
            scripted_models(SCRIPT.answer) as models,
            open_daemon(settings_for(models.url, data), {}) as daemon,
        ):
            await daemon.control.submit([task()])
            await daemon.database.write(owe_a_stranger)
            with capture_logs() as said:
                await daemon.work(until_drained=True)
            summary = await summarise(daemon.database, daemon.run)
    assert [(line["handler"], line["owed"]) for line in said if "handler not installed" in line["event"]] == [
        ("stranger", 1)
    ]
    assert (summary.owed, summary.tasks_finished) == (1, 0)
    assert exit_code(Worked(summary=summary, stopped_by=None)) == EXIT_FAILED
