"""Collect: every task is attempted as often as asked, and each attempt is judged on the value that it returned."""

from __future__ import annotations

from pathlib import Path

from store.database import Reader
from store.events import TrajectoryCompleted
from store.summary import Outcomes
from store.trajectories import load_trajectory
from tests.acceptance.scripted import Ask, Script, play, task

STOPS = Script(actions=("stop('42', 'because')",))


async def test_each_task_is_attempted_as_often_as_the_run_says(data: Path) -> None:
    played = await play(
        STOPS.answer, data, tasks=[task("a"), task("b", answer="41")], changes={"run.trajectories": 3}
    )
    told = [event for event in played.events if isinstance(event, TrajectoryCompleted)]
    async with Reader(data) as reader:
        labels = sorted([(await load_trajectory(reader, event.trajectory)).label for event in told])
    assert labels == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]
    assert played.summary.trajectories == Outcomes(success=3, failure=3)


async def test_attempts_at_one_task_are_asked_with_seeds_of_their_own(data: Path) -> None:
    played = await play(STOPS.answer, data, changes={"run.trajectories": 3})
    assert len({ask.seed for ask in played.models.of("policy", "action")}) == 3


async def test_the_answer_is_the_value_that_the_run_returned_and_not_text_of_the_code(data: Path) -> None:
    script = Script(actions=("answer = 40 + 2\nprint(\"stop('41')\")\nstop(answer, 'worked out')",))
    played = await play(script.answer, data)
    assert played.summary.trajectories == Outcomes(success=1)
    async with Reader(data) as reader:
        assert (await load_trajectory(reader, 1)).answer == "42"


async def test_the_files_of_a_task_lie_in_its_workspace_and_nowhere_else(data: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("42\n")
    script = Script(
        actions=("import os\nstop(open('table.csv').read() if os.path.exists('table.csv') else os.listdir())",)
    )
    tasks = [task("with", file=tmp_path / "table.csv"), task("without", answer="[]")]
    played = await play(script.answer, data, tasks=tasks)
    assert played.summary.trajectories == Outcomes(success=2)
    (first,) = played.models.of("policy", "plan", "with/0")
    assert "\n\nFiles: table.csv\n\n" in first.last


async def test_the_model_judge_decides_where_the_run_says_so(data: Path) -> None:
    script = Script(actions=("stop('forty-two', '')",), verdict="They agree.\nVerdict: yes")
    played = await play(script.answer, data, changes={"judge.method": "model"})
    assert played.summary.trajectories == Outcomes(success=1)
    (asked,) = played.models.of("judge")
    assert "Reference answer:\n42\n" in asked.last
    assert "forty-two" in asked.last
    assert asked.body["temperature"] == 0


async def test_one_attempt_that_fails_for_ever_leaves_the_others_of_its_task_alone(data: Path) -> None:
    async def answer(ask: Ask) -> str | int:
        return 500 if ask.trajectory == "t/1" else await STOPS.answer(ask)

    played = await play(answer, data, changes={"run.trajectories": 3, "bus.attempts": 2})
    assert played.summary.trajectories == Outcomes(success=2, error=1)
    (letter,) = played.summary.set_aside
    assert (letter.handler, letter.deliveries) == ("collect", 1)
    # What had come to its end is not attempted again with the delivery.
    assert len(played.models.of("policy", "plan", "t/0")) == 1
    assert len(played.models.of("policy", "plan", "t/1")) == 2


async def test_an_attempt_that_failed_first_goes_on_from_the_steps_that_it_has(data: Path) -> None:
    script = Script(actions=("print('begun')", "stop('42', '')"))
    refused: list[int] = []

    async def answer(ask: Ask) -> str | int:
        if ask.module == "plan" and ask.step == 1 and len(refused) < 2:
            refused.append(ask.step)
            return 503
        return await script.answer(ask)

    played = await play(answer, data)
    assert played.summary.trajectories == Outcomes(success=1)
    assert [(ask.module, ask.step) for ask in played.models.of("policy")] == [
        ("plan", 0),
        ("action", 0),
        *[("plan", 1)] * 3,
        ("action", 1),
        ("end", -1),
    ]
