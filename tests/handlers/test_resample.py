"""Resample: the policy's action first, alternatives only where it is bad, all in the context that the policy had."""

from __future__ import annotations

from pathlib import Path

from store.candidates import load_candidates
from store.database import Reader
from store.events import StepScored
from tests.acceptance.scripted import Ask, Script, play

BAD, GOOD, FAIR = "Score: 0.1", "Score: 0.9", "Score: 0.55"
# Step 1 looks bad; the others do not.
SCRIPT = Script(
    actions=("print('step 0')", "print('step 1')", "stop('wrong', '')"),
    alternatives={1: ("print('first')", "print('second')", "print('third')")},
    scores={"print('step 1')": BAD, "print('first')": FAIR, "print('second')": GOOD, "print('third')": BAD},
)


async def test_a_success_is_not_resampled(data: Path) -> None:
    played = await play(Script(actions=("stop('42', '')",)).answer, data)
    assert played.models.of("prm") == played.models.of("expert") == []
    assert played.summary.steps_scored == played.summary.failed_steps == 0
    assert played.summary.supervised_share is None


async def test_the_expert_is_asked_only_where_the_policys_action_is_bad(data: Path) -> None:
    played = await play(SCRIPT.answer, data)
    assert {ask.step for ask in played.models.of("expert")} == {1}
    told = {event.step: event for event in played.events if isinstance(event, StepScored)}
    assert {step: event.score for step, event in told.items()} == {0: 0.55, 1: 0.1, 2: 0.55}
    assert [told[step].critical for step in range(3)] == [False, True, False]
    assert (told[1].alternatives, told[1].good) == (3, 1)


async def test_the_policys_action_is_scored_before_any_alternative_is_asked_for(data: Path) -> None:
    played = await play(SCRIPT.answer, data)
    at_step = [ask for ask in played.models.asks if ask.step == 1 and ask.role in ("prm", "expert")]
    assert at_step[0].role == "prm"
    assert "print('step 1')" in at_step[0].last.rpartition("Candidate action")[2]


async def test_the_expert_gets_exactly_the_messages_that_the_policy_got(data: Path) -> None:
    played = await play(SCRIPT.answer, data)
    (policy,) = (ask for ask in played.models.of("policy", "action", "t/0") if ask.step == 1)
    experts = played.models.of("expert")
    assert len(experts) == 5
    assert all(ask.body["messages"] == policy.body["messages"] for ask in experts)


async def test_alternatives_are_asked_with_consecutive_seeds(data: Path) -> None:
    played = await play(SCRIPT.answer, data)
    seeds = sorted(ask.seed for ask in played.models.of("expert"))
    assert seeds == list(range(seeds[0], seeds[0] + 5))


async def test_all_candidates_of_a_step_are_scored_in_the_same_context(data: Path) -> None:
    played = await play(SCRIPT.answer, data)
    asked = [ask for ask in played.models.of("prm") if ask.step == 1]
    contexts = {ask.last.rpartition("Candidate action of step 1:\n")[0] for ask in asked}
    assert len(asked) == 4
    (context,) = contexts
    assert "Observation of step 0:\nstep 0" in context
    # Nothing of what the action led to, nor anything later.
    assert "Observation of step 1" not in context
    assert "wrong" not in context
    assert {ask.messages[0] for ask in asked} == {asked[0].messages[0]}


async def test_copies_of_each_other_and_of_the_policys_action_are_scored_once_or_not_at_all(data: Path) -> None:
    script = Script(
        actions=("print('policy')", "stop('wrong', '')"),
        alternatives={0: ("print( 'policy' )  # again", "print('new')", 'print("new")', "x = 1")},
        scores={"'policy'": BAD},
    )
    played = await play(script.answer, data, changes={"resample.alternatives": 4})
    async with Reader(data) as reader:
        own, *others = await load_candidates(reader, 1, 0)
    by_code = {one.action.split("```python\n")[1].split("\n```")[0]: one for one in others}
    assert own.score == 0.1
    assert by_code["print( 'policy' )  # again"].duplicate_of == 0
    same = sorted([by_code["print('new')"], by_code['print("new")']], key=lambda one: one.ordinal)
    assert [one.duplicate_of for one in same] == [None, same[0].ordinal]
    assert {one.score for one in others if one.duplicate_of is not None} == {None}
    assert len([ask for ask in played.models.of("prm") if ask.step == 0]) == 3


async def test_a_prm_that_fails_at_one_step_holds_up_no_other_and_nothing_is_asked_twice(data: Path) -> None:
    failed: list[int] = []

    async def answer(ask: Ask) -> str | int:
        if ask.role == "prm" and ask.step == 0 and len(failed) < 2:
            failed.append(ask.step)
            return 500
        return await SCRIPT.answer(ask)

    played = await play(answer, data)
    assert played.summary.steps_scored == 3
    scored = [event.step for event in played.events if isinstance(event, StepScored)]
    assert scored[-1] == 0
    assert sorted(scored) == [0, 1, 2]
    asked = [(ask.step, ask.last) for ask in played.models.of("prm")]
    assert len(asked) == len(set(asked)) + len(failed) == 8


async def test_the_prm_sees_the_latest_steps_that_the_settings_allow(data: Path) -> None:
    actions = (*(f"print('step {step}')" for step in range(5)), "stop('wrong', '')")
    played = await play(Script(actions=actions).answer, data, changes={"resample.recent_steps": 2})
    (asked,) = (ask for ask in played.models.of("prm") if ask.step == 4)
    shown = [step for step in range(6) if f"Observation of step {step}:" in asked.last]
    assert shown == [2, 3]
