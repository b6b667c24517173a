"""What a content filter's refusal does to a rollout: the policy is told, the step fails, and the rollout goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.agents.main.replies import parse_literal, render_reply
from store.calls import FILTERED
from store.database import Reader
from store.events import StepScored
from store.summary import Outcomes
from store.trajectories import Step, load_steps, load_trajectory
from tests.acceptance.scripted import CUT_OFF, FILTER, Answer, Ask, Played, Refusal, Said, Script, play

SCRIPT = Script(actions=("print('step 0')", "print('step 1')", "stop('42', '')"))


def refusing(*places: tuple[str, int], refusal: Refusal = FILTER, script: Script = SCRIPT) -> Answer:
    """The script, but for the policy's calls of these modules and steps, which the filter refuses."""

    async def answer(ask: Ask) -> Said:
        refused = ask.role == "policy" and (ask.module, ask.step) in places
        return refusal if refused else await script.answer(ask)

    return answer


async def steps_of(played: Played) -> list[Step]:
    async with Reader(played.data) as reader:
        return await load_steps(reader, await load_trajectory(reader, 1))


def modules(played: Played, step: int) -> list[str]:
    return [ask.module for ask in played.models.of("policy") if ask.step == step]


def lessons(state: str) -> object:
    return parse_literal(state)["experience"]


@pytest.mark.parametrize("refusal", [FILTER, CUT_OFF])
async def test_a_refused_action_is_told_to_the_policys_experience_and_the_rollout_goes_on(
    refusal: Refusal, data: Path
) -> None:
    played = await play(refusing(("action", 1), refusal=refusal), data)
    assert played.summary.trajectories == Outcomes(success=1)
    refused = (await steps_of(played))[1]
    assert (refused.action, refused.failed, refused.action_call) == ("", True, None)
    assert refused.observation == "The provider's content filter refused the action of step 1, so nothing was run."
    told = lessons(refused.state)
    assert isinstance(told, list)
    assert [str(item).partition(". ")[0] for item in told] == [
        "The provider's content filter refused the action of step 1"
    ]
    assert "before step 1" in refused.state  # the plan of the step counts
    (next_plan,) = (ask for ask in played.models.of("policy", "plan") if ask.step == 2)
    assert f"Progress state before step 2:\n{refused.state}\n\n" in next_plan.last


async def test_a_refused_plan_leaves_the_state_as_it_was_and_no_action_is_asked_for(data: Path) -> None:
    played = await play(refusing(("plan", 1)), data)
    assert played.summary.trajectories == Outcomes(success=1)
    assert modules(played, 1) == ["plan"]
    before, refused, _ = await steps_of(played)
    assert refused.failed
    assert "refused the plan of step 1" in refused.state
    assert parse_literal(refused.state) == {**parse_literal(before.state), "experience": lessons(refused.state)}


async def test_nothing_is_put_into_the_policys_mouth_at_a_step_that_was_refused(data: Path) -> None:
    played = await play(refusing(("action", 0), ("action", 1)), data)
    (ask,) = (ask for ask in played.models.of("policy", "action") if ask.step == 2)
    assert [message.role for message in ask.messages] == ["system", "user"]
    assert ask.last.startswith(
        "Task: What is the answer to t?\n\n"
        "Observation of step 0:\nThe provider's content filter refused the action of step 0, so nothing was run.\n\n"
        "Observation of step 1:\nThe provider's content filter refused the action of step 1, so nothing was run.\n\n"
        "Progress state at step 2:\n"
    )


async def test_an_empty_reply_has_no_turn_of_the_assistant_either(data: Path) -> None:
    script = Script(actions=SCRIPT.actions, replies={1: "  \n"})
    played = await play(script.answer, data)
    (ask,) = (ask for ask in played.models.of("policy", "action") if ask.step == 2)
    assert all(message.content.strip() for message in ask.messages)
    assert [message.role for message in ask.messages] == ["system", "user", "assistant", "user"]
    assert "step 0\n\nObservation of step 1:\nThe reply was empty." in ask.last


async def test_refused_steps_are_given_back_up_to_the_ceiling(data: Path) -> None:
    async def answer(ask: Ask) -> Said:
        return FILTER if ask.module == "plan" else await SCRIPT.answer(ask)

    played = await play(answer, data, changes={"agent.max_steps": 4})
    assert len(await steps_of(played)) == 6
    assert played.summary.trajectories == Outcomes(failure=1)
    assert played.models.of("policy", "action") == []


@pytest.mark.parametrize(
    ("module", "script", "answer"),
    [
        ("end", Script(actions=("stop('41', '')",)), "41"),
        ("end", Script(actions=("print(1)",), direct="so they say"), "so they say"),
        ("direct", Script(actions=("print(1)",), ends=("unreadable",)), ""),
    ],
)
async def test_a_refused_end_leaves_what_the_policy_has_answered(
    module: str, script: Script, answer: str, data: Path
) -> None:
    played = await play(refusing((module, -1), script=script), data, changes={"agent.max_steps": 1})
    async with Reader(data) as reader:
        trajectory = await load_trajectory(reader, 1)
    assert (trajectory.answer, trajectory.outcome) == (answer, "failure")
    assert played.summary.set_aside == []


async def test_a_policy_that_is_kept_from_answering_at_all_has_not_failed(data: Path) -> None:
    async def answer(ask: Ask) -> Said:
        return FILTER if ask.role == "policy" else await SCRIPT.answer(ask)

    played = await play(answer, data, changes={"agent.max_steps": 2, "bus.attempts": 2})
    assert played.summary.trajectories == Outcomes(error=1)
    (letter,) = played.summary.set_aside
    assert "the content filter refused" in letter.error


async def test_a_policy_that_may_answer_after_all_is_asked_for_its_end_and_nothing_else_again(data: Path) -> None:
    refused: list[Ask] = []

    async def answer(ask: Ask) -> Said:
        relents = ask.module == "end" and any(one.module == "end" for one in refused)
        refused.append(ask)
        return render_reply("At last.", "{'output': '42', 'log': ''}") if relents else FILTER

    played = await play(answer, data, changes={"agent.max_steps": 2})
    assert played.summary.trajectories == Outcomes(success=1)
    asked = [(ask.module, ask.step) for ask in played.models.of("policy")]
    assert asked == [("plan", 0), ("plan", 1), ("plan", 2), ("direct", -1), ("end", -1), ("end", -1)]


async def test_a_refusal_inside_ask_llm_is_an_error_that_the_code_can_handle(data: Path) -> None:
    script = Script(
        actions=("try:\n    ask_llm('?')\nexcept Exception as error:\n    print(error)", "stop('42', '')")
    )
    played = await play(refusing(("ask", 0), script=script), data)
    first, _ = await steps_of(played)
    assert (first.observation, first.failed) == (
        "the provider's content filter refused the question or its answer",
        False,
    )


async def test_a_refused_step_is_nothing_that_could_be_preferred_or_rejected(data: Path) -> None:
    script = Script(actions=("print('step 0')", "print('step 1')", "stop('wrong', '')"))
    played = await play(refusing(("action", 1), script=script), data)
    scored = {event.step for event in played.events if isinstance(event, StepScored)}
    assert scored == {0, 2}
    assert not [ask for ask in played.models.asks if ask.role in ("prm", "expert") and ask.step == 1]
    assert played.summary.steps_scored == played.summary.failed_steps == 2
    assert played.summary.set_aside == []


async def test_a_rollout_that_is_taken_up_again_meets_its_refusals_without_asking_for_them(data: Path) -> None:
    """Each refusal would be lifted if it were asked for again."""
    lifted: set[tuple[str, int]] = set()

    async def relents(ask: Ask) -> Said:
        place = (ask.module, ask.step)
        if place in (("plan", 0), ("action", 1)) and place not in lifted:
            lifted.add(place)
            return FILTER
        if place == ("plan", 1) and place not in lifted:
            lifted.add(place)
            return 500  # the rollout fails here, and begins anew from what is stored
        return await SCRIPT.answer(ask)

    played = await play(relents, data)
    assert [modules(played, step) for step in range(3)] == [["plan"], ["plan", "plan", "action"], ["plan", "action"]]
    async with Reader(data) as reader:
        rows = await reader.fetch("SELECT step, module FROM calls WHERE finish_reason = ?", (FILTERED,))
    assert [(row["step"], row["module"]) for row in rows] == [(0, "plan"), (1, "action")]


async def test_the_expert_sees_what_the_policy_saw_after_a_refusal(data: Path) -> None:
    script = Script(
        actions=("print('step 0')", "print('step 1')", "stop('wrong', '')"),
        scores={"print('step 1')": "Score: 0.1"},
    )
    played = await play(refusing(("action", 0), script=script), data)
    (policy,) = (ask for ask in played.models.of("policy", "action", "t/0") if ask.step == 1)
    experts = [ask for ask in played.models.of("expert") if ask.step == 1]
    assert experts
    assert all(ask.messages == policy.messages for ask in experts)
