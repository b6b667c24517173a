"""The loop around an agent: how long a rollout may go on, why it ends, and what a step leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.rollout import Budget
from store.database import Reader
from store.manifests import Manifest
from store.trajectories import Step, load_steps, load_trajectory
from tests.acceptance.scripted import Ask, Script, play


def steps(*failed: bool, seconds: float = 0.0) -> tuple[Step, ...]:
    return tuple(
        Step(
            index=index,
            action="",
            state="{}",
            observation="",
            workspace=None,
            result=None,
            failed=one,
            seconds=seconds,
        )
        for index, one in enumerate(failed)
    )


@pytest.mark.parametrize(
    ("failed", "allowed"),
    [
        ([], 12),
        ([False] * 12, 12),
        ([True], 13),
        ([True, False, True, False], 14),
        ([True] * 6, 18),
        ([True] * 7, 18),
        ([True] * 18, 18),
    ],
)
def test_failed_steps_are_given_back_up_to_half_as_many_again(failed: Sequence[bool], allowed: int) -> None:
    assert Budget(max_steps=12).steps_allowed(steps(*failed), None) == allowed


def test_the_ceiling_of_an_odd_budget_is_rounded_down() -> None:
    assert Budget(max_steps=5).steps_allowed(steps(*[True] * 7), None) == 7
    assert Budget(max_steps=1).steps_allowed(steps(True), None) == 1


@pytest.mark.parametrize(
    ("fork", "allowed"),
    [(0, 12), (9, 12), (10, 12), (11, 13), (12, 14), (17, 19)],
)
def test_a_branch_gets_what_is_left_and_one_step_after_its_own_at_the_least(fork: int, allowed: int) -> None:
    assert Budget(max_steps=12).steps_allowed(steps(*[False] * fork), fork) == allowed


def test_the_failed_steps_before_a_fork_are_given_back_to_the_branch_too() -> None:
    assert Budget(max_steps=12).steps_allowed(steps(True, True, False), 3) == 14


def test_a_branch_whose_own_step_fails_gets_it_back() -> None:
    assert Budget(max_steps=12).steps_allowed(steps(*[False] * 9, True), 9) == 13


@pytest.mark.parametrize(
    ("taken", "fork", "out"),
    [(4, None, False), (5, None, True), (6, None, True), (5, 4, False), (6, 4, True), (6, 5, False), (7, 2, True)],
)
def test_a_branch_has_the_time_for_one_step_after_its_own_at_the_least(
    taken: int, fork: int | None, out: bool
) -> None:
    left = Budget(time_limit=50.0).seconds_left(steps(*[False] * taken, seconds=10.0), fork)
    assert (left <= 0) is out


async def told_at_the_end(script: Script, data: Path, **changes: object) -> tuple[str, str | None]:
    """The closing request of a trajectory, and the reason that was stored."""
    played = await play(
        script.answer, data, changes={key.replace("__", "."): value for key, value in changes.items()}
    )
    async with Reader(data) as reader:
        stored = (await load_trajectory(reader, 1)).stop_reason
    return played.models.of("policy", "end", "t/0")[0].last, stored


async def test_a_rollout_that_calls_stop_ends_with_what_it_gave(data: Path) -> None:
    last, stored = await told_at_the_end(Script(actions=("print(1)", "stop('42', 'log')\nprint('still here')")), data)
    assert stored == "stopped"
    assert "The run ended: stopped.\nResult given: 42\n\nWrite the final result." in last


async def test_a_rollout_that_is_out_of_steps_is_asked_for_a_direct_answer_and_judged_on_what_it_can_give(
    data: Path,
) -> None:
    script = Script(actions=("print(1)",), direct="maybe 42")
    last, stored = await told_at_the_end(script, data, agent__max_steps=3)
    assert stored == "max-steps"
    assert "The run ended: max-steps.\nResult given: none\nDirect answer to the task: maybe 42\n\n" in last


async def test_a_rollout_that_is_out_of_time_ends_between_two_steps(data: Path) -> None:
    script = Script(actions=("import time\ntime.sleep(0.6)",))
    last, stored = await told_at_the_end(script, data, agent__time_limit=1.0)
    assert stored == "time-limit"
    assert "The run ended: time-limit.\n" in last
    async with Reader(data) as reader:
        taken = await load_steps(reader, await load_trajectory(reader, 1))
    assert sum(step.seconds for step in taken) >= 1 > sum(step.seconds for step in taken[:-1])


async def test_time_spent_waiting_for_a_failing_endpoint_is_not_the_policys(data: Path) -> None:
    script = Script(actions=("print(1)", "stop('42', '')"))
    refused: list[int] = []

    async def answer(ask: Ask) -> str | int:
        if len(refused) < 3:
            refused.append(1)
            return 503
        return await script.answer(ask)

    await play(answer, data, changes={"bus.delay": 0.5, "bus.max_delay": 0.5, "agent.time_limit": 1.0})
    async with Reader(data) as reader:
        assert (await load_trajectory(reader, 1)).stop_reason == "stopped"


async def test_each_step_records_the_files_that_it_left(data: Path) -> None:
    script = Script(actions=("open('a', 'w').write('1')", "import os; os.rename('a', 'b')", "stop('42', '')"))
    await play(script.answer, data)
    async with Reader(data) as reader:
        taken = await load_steps(reader, await load_trajectory(reader, 1))
        names = []
        for step in taken:
            row = await reader.fetch_one("SELECT data FROM blobs WHERE id = ?", (step.workspace,))
            assert row is not None
            names.append(list(Manifest.decode(row["data"][1:]).entries))
    assert names == [["a"], ["b"], ["b"]]


async def test_too_many_files_are_put_back_and_the_policy_is_told(data: Path) -> None:
    many = "for number in range(9):\n    open(str(number), 'w').close()"
    script = Script(actions=("open('kept', 'w').close()", many, "import os\nstop(','.join(os.listdir()), '')"))
    played = await play(script.answer, data, changes={"workspace.max_files": 5})
    async with Reader(data) as reader:
        trajectory = await load_trajectory(reader, 1)
        taken = await load_steps(reader, trajectory)
    assert taken[1].failed
    assert "more than 5 files" in taken[1].observation
    assert taken[1].workspace == taken[0].workspace
    assert trajectory.answer == "kept"
    (next_plan,) = (ask for ask in played.models.of("policy", "plan", "t/0") if ask.step == 2)
    assert "put back" in next_plan.last
