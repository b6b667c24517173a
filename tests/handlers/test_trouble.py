"""Refusals and requests that are too long at the models around the policy: what is missing takes no part."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.candidates import Candidate, load_candidates
from store.database import Reader
from store.events import StepScored
from store.summary import Outcomes
from tests.acceptance.scripted import CUT_OFF, FILTER, OVERFLOW, Ask, Played, Refusal, Said, Script, play

BAD, GOOD = "Score: 0.1", "Score: 0.9"
# Step 1 looks bad, after a step that shows much. One of three alternatives makes the task succeed.
SCRIPT = Script(
    actions=(
        "print('begin' + 'x' * 4000 + 'end')",
        "print('policy')",
        "import os\nstop('42' if os.path.exists('found') else 'wrong', '')",
    ),
    alternatives={1: ("open('found', 'w').close()", "print('other')", "print('third')")},
    scores={"print('policy')": BAD, "open('found'": GOOD, "print('other')": GOOD, "print('third')": BAD},
)
THREE = {"resample.alternatives": 3}
SHOWN = "begin" + "x" * 4000 + "end"


async def candidates_of(played: Played, step: int) -> list[Candidate]:
    async with Reader(played.data) as reader:
        return await load_candidates(reader, 1, step)


def told(played: Played, step: int) -> StepScored:
    return next(event for event in played.events if isinstance(event, StepScored) and event.step == step)


def candidate(ask: Ask) -> str:
    """What a request to the PRM shows of the candidate."""
    return ask.last.rpartition("Candidate action of step ")[2]


@pytest.mark.parametrize("refusal", [FILTER, CUT_OFF, OVERFLOW])
async def test_an_alternative_that_the_expert_may_not_give_does_not_exist_and_the_others_are_used(
    refusal: Refusal, data: Path
) -> None:
    async def answer(ask: Ask) -> Said:
        said = await SCRIPT.answer(ask)
        return refusal if ask.role == "expert" and "other" in str(said) else said

    played = await play(answer, data, changes=THREE)
    assert len(played.models.of("expert")) == 3
    refused = [one for one in await candidates_of(played, 1) if one.action == ""]
    assert [(one.usable, one.score, one.duplicate_of) for one in refused] == [(False, None, None)]
    assert (told(played, 1).alternatives, told(played, 1).good) == (2, 1)
    assert played.summary.pairs == 1
    assert played.summary.set_aside == []


@pytest.mark.parametrize("refusal", [FILTER, OVERFLOW])
async def test_a_step_for_which_the_expert_may_give_nothing_is_not_critical(refusal: Refusal, data: Path) -> None:
    async def answer(ask: Ask) -> Said:
        return refusal if ask.role == "expert" else await SCRIPT.answer(ask)

    played = await play(answer, data, changes=THREE)
    assert (told(played, 1).score, told(played, 1).alternatives, told(played, 1).critical) == (0.1, 0, False)
    assert played.summary.branches == Outcomes()
    assert played.summary.tasks_finished == 1


async def test_an_action_that_the_prm_may_not_see_stays_unscored_and_the_expert_is_not_asked(data: Path) -> None:
    async def answer(ask: Ask) -> Said:
        return FILTER if ask.role == "prm" and ask.step == 1 else await SCRIPT.answer(ask)

    played = await play(answer, data, changes=THREE)
    assert told(played, 1).score is None
    assert played.models.of("expert") == []
    assert len([ask for ask in played.models.of("prm") if ask.step == 1]) == 1
    assert (played.summary.steps_scored, played.summary.steps_unscored) == (2, 1)
    assert played.summary.tasks_finished == 1


async def test_an_alternative_that_the_prm_may_not_see_takes_no_part_and_the_others_do(data: Path) -> None:
    async def answer(ask: Ask) -> Said:
        hidden = ask.role == "prm" and "print('other')" in candidate(ask)
        return FILTER if hidden else await SCRIPT.answer(ask)

    played = await play(answer, data, changes=THREE)
    (hidden,) = (one for one in await candidates_of(played, 1) if "print('other')" in one.action)
    assert (hidden.usable, hidden.score) == (True, None)
    assert (told(played, 1).alternatives, told(played, 1).good) == (2, 1)
    assert played.summary.pairs == 1


async def test_a_step_that_is_too_long_for_the_prm_is_scored_with_shorter_observations_all_candidates_alike(
    data: Path,
) -> None:
    async def answer(ask: Ask) -> Said:
        return OVERFLOW if ask.role == "prm" and SHOWN in ask.last else await SCRIPT.answer(ask)

    played = await play(answer, data, changes=THREE)
    asked = [ask for ask in played.models.of("prm") if ask.step == 1]
    assert SHOWN in asked[0].last
    assert candidate(asked[1]) == candidate(asked[0])
    contexts = {ask.last.rpartition("Candidate action of step ")[0] for ask in asked[1:]}
    assert len(asked) == 5
    (context,) = contexts
    assert "Observation of step 0:\nbeginxxx" in context
    assert "characters left out …]" in context
    assert played.summary.pairs == 1


async def test_a_step_that_is_too_long_for_the_prm_even_so_stays_unscored(data: Path) -> None:
    async def answer(ask: Ask) -> Said:
        return OVERFLOW if ask.role == "prm" and ask.step == 1 else await SCRIPT.answer(ask)

    played = await play(answer, data, changes=THREE)
    assert len([ask for ask in played.models.of("prm") if ask.step == 1]) == 2
    assert told(played, 1).score is None
    assert (played.summary.tasks_finished, played.summary.set_aside) == (1, [])


async def test_an_alternative_that_does_not_fit_beside_what_the_policys_action_was_scored_with_stays_unscored(
    data: Path,
) -> None:
    async def answer(ask: Ask) -> Said:
        too_long = ask.role == "prm" and "print('other')" in candidate(ask)
        return OVERFLOW if too_long else await SCRIPT.answer(ask)

    played = await play(answer, data, changes=THREE)
    asked = [ask for ask in played.models.of("prm") if ask.step == 1]
    assert len(asked) == 4
    assert all(SHOWN in ask.last for ask in asked)
    assert (told(played, 1).alternatives, told(played, 1).good) == (2, 1)


async def test_a_judge_that_a_filter_keeps_from_answering_decides_nothing_and_is_asked_again(data: Path) -> None:
    script = Script(actions=("stop('forty-two', '')",), verdict="Verdict: yes")
    refused: list[int] = []

    async def answer(ask: Ask) -> Said:
        if ask.role == "judge" and len(refused) < 2:
            refused.append(1)
            return FILTER
        return await script.answer(ask)

    played = await play(answer, data, changes={"judge.method": "model"})
    assert len(played.models.of("judge")) == 3
    assert len(played.models.of("policy", "plan")) == 1
    assert played.summary.trajectories == Outcomes(success=1)


async def test_a_judge_that_is_never_let_answer_leaves_an_error_and_no_outcome(data: Path) -> None:
    script = Script(actions=("stop('forty-two', '')",))

    async def answer(ask: Ask) -> Said:
        return FILTER if ask.role == "judge" else await script.answer(ask)

    played = await play(answer, data, changes={"judge.method": "model", "bus.attempts": 2})
    assert played.summary.trajectories == Outcomes(error=1)
    (letter,) = played.summary.set_aside
    assert "the content filter refused" in letter.error
