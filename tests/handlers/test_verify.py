"""Verify: good alternatives are executed for real, the best first, and the policy itself goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.database import Reader
from store.events import BranchCompleted
from store.summary import Outcomes
from store.trajectories import load_steps, load_trajectory
from tests.acceptance.scripted import Ask, Script, play

# Three alternatives at step 0: the second best flips the outcome.
SCRIPT = Script(
    actions=("print('policy')", "import os\nstop('42' if os.path.exists('found') else 'wrong', '')"),
    alternatives={0: ("print('best')", "open('found', 'w').close()", "open('found', 'a').close()")},
    scores={
        "print('policy')": "Score: 0.1",
        "print('best')": "Score: 0.95",
        "open('found', 'w')": "Score: 0.8",
        "open('found', 'a')": "Score: 0.7",
    },
)


async def codes_of_branches(data: Path, played: list[BranchCompleted]) -> list[str]:
    """The programs that branches took at their forks, in the order in which they ended."""
    async with Reader(data) as reader:
        steps = [
            (await load_steps(reader, await load_trajectory(reader, event.trajectory)))[event.step]
            for event in played
        ]
    return [step.action.split("```python\n")[1].split("\n```")[0] for step in steps]


def completed(events: list[object]) -> list[BranchCompleted]:
    return [event for event in events if isinstance(event, BranchCompleted)]


async def test_alternatives_go_highest_score_first_until_one_succeeds(data: Path) -> None:
    played = await play(SCRIPT.answer, data, changes={"resample.alternatives": 3})
    branches = completed([*played.events])
    assert await codes_of_branches(data, branches) == ["print('best')", "open('found', 'w').close()"]
    assert [event.outcome for event in branches] == ["failure", "success"]
    assert played.summary.pairs == 1


async def test_all_good_alternatives_are_tried_where_the_first_success_is_not_to_end_it(data: Path) -> None:
    played = await play(SCRIPT.answer, data, changes={"resample.alternatives": 3, "verify.first_success": False})
    assert [event.outcome for event in completed([*played.events])] == ["failure", "success", "success"]
    assert played.summary.pairs == 2
    assert played.summary.supervised_share == 0.5


async def test_the_policy_finishes_the_branch_and_sees_what_the_alternative_did(data: Path) -> None:
    played = await play(SCRIPT.answer, data, changes={"resample.alternatives": 3})
    label = next(ask.trajectory for ask in played.models.asks if ask.in_branch)
    asked = [(ask.role, ask.module, ask.step) for ask in played.models.asks if ask.trajectory == label]
    assert asked == [("policy", "plan", 1), ("policy", "action", 1), ("policy", "end", -1)]
    (action,) = played.models.of("policy", "action", label)
    assert "print('best')" in action.messages[-2].content
    assert action.last.startswith("Observation of step 0:\nbest\n")


async def test_a_step_that_is_not_critical_gets_no_branch(data: Path) -> None:
    script = Script(
        actions=("print('policy')", "stop('wrong', '')"),
        alternatives={0: ("print('no better')",)},
        scores={"print('policy')": "Score: 0.1", "no better": "Score: 0.6"},
    )
    played = await play(script.answer, data)
    assert played.models.of("expert") != []
    assert (played.summary.critical_candidates, played.summary.branches) == (0, Outcomes())


async def test_controls_take_the_policys_own_action_once_for_a_step(data: Path) -> None:
    changes = {"resample.alternatives": 3, "verify.controls": 2, "verify.rollouts": 2, "verify.first_success": False}
    played = await play(SCRIPT.answer, data, changes=changes)
    controls = [event for event in completed([*played.events]) if event.control]
    assert await codes_of_branches(data, controls) == ["print('policy')"] * 2
    assert played.summary.controls == Outcomes(failure=2)
    assert played.summary.branches == Outcomes(success=4, failure=2)


async def test_rollouts_of_one_alternative_are_asked_with_seeds_of_their_own(data: Path) -> None:
    played = await play(SCRIPT.answer, data, changes={"resample.alternatives": 1, "verify.rollouts": 4})
    asked = [ask for ask in played.models.of("policy", "plan") if ask.in_branch]
    assert len({ask.seed for ask in asked}) == len(asked) == 4


@pytest.mark.parametrize("status", [500, 503])
async def test_trouble_with_the_best_alternative_does_not_decide_which_one_makes_the_pair(
    data: Path, status: int
) -> None:
    """Both best ones would succeed; that the first needs a second attempt must not bring in the second."""
    script = Script(
        actions=SCRIPT.actions,
        alternatives={0: SCRIPT.alternatives[0][1:]},
        scores=SCRIPT.scores,
    )
    refused: list[str] = []

    async def answer(ask: Ask) -> str | int:
        if ask.in_branch and not refused:
            refused.append(ask.trajectory)
            return status
        return await script.answer(ask)

    played = await play(answer, data, changes={"resample.alternatives": 2})
    (branch,) = completed([*played.events])
    assert await codes_of_branches(data, [branch]) == ["open('found', 'w').close()"]
    assert played.summary.branches == Outcomes(success=1)
    assert played.summary.pairs == 1
