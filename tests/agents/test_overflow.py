"""Conversations that are too long: observations give way, the oldest first and once, and what was asked is kept."""

from __future__ import annotations

from pathlib import Path

from store.calls import load_request
from store.database import Reader
from store.export import load_pairs
from store.runs import find_run
from store.summary import Outcomes
from store.trajectories import load_steps, load_trajectory
from tests.acceptance.scripted import OVERFLOW, Answer, Ask, Said, Script, play

# What two steps show, and where each begins and ends.
LONG = {step: f"begin {step} " + "x" * 3000 + f" end {step}" for step in range(2)}
SHOW = tuple(f"print('begin {step} ' + 'x' * 3000 + ' end {step}')" for step in range(2))
ENDS = Script(actions=(*SHOW, "stop('42', '')"))


def size(ask: Ask) -> int:
    return sum(len(message.content) for message in ask.messages)


def taking(characters: int, script: Script) -> Answer:
    """The script, but a policy whose context holds no more than so many characters."""

    async def answer(ask: Ask) -> Said:
        too_long = ask.role == "policy" and size(ask) > characters
        return OVERFLOW if too_long else await script.answer(ask)

    return answer


def shown(ask: Ask) -> list[str]:
    """Which of the two observations a request shows whole."""
    text = "\n".join(message.content for message in ask.messages)
    return [observation for observation in LONG.values() if observation in text]


async def test_the_oldest_observation_gives_way_first_and_the_request_is_asked_once_more(data: Path) -> None:
    played = await play(taking(5500, ENDS), data)
    assert played.summary.trajectories == Outcomes(success=1)
    refused, taken = (ask for ask in played.models.of("policy", "action") if ask.step == 2)
    assert shown(refused) == list(LONG.values())
    assert LONG[0] not in shown(taken)
    (first,) = (message.content for message in taken.messages if "Observation of step 0:\n" in message.content)
    assert "Observation of step 0:\nbegin 0 xxx" in first
    assert "characters left out …]" in first
    assert first.endswith("xxx end 0")
    # Everything else is as it was.
    assert [message.role for message in taken.messages] == [message.role for message in refused.messages]
    assert taken.messages[0] == refused.messages[0]
    assert taken.last.partition("Progress state")[1:] == refused.last.partition("Progress state")[1:]


async def test_work_that_is_done_again_goes_on_with_the_reply_to_the_shorter_request(data: Path) -> None:
    """An endpoint is thought to take more, or less, than before once its tokens have been counted for a while."""
    failed: list[Ask] = []

    async def answer(ask: Ask) -> Said:
        if not failed and ask.step == 2 and ask.module == "action":
            failed.append(ask)
            return 500
        return await taking(100_000 if failed else 5500, ENDS)(ask)

    played = await play(answer, data)
    assert played.summary.trajectories == Outcomes(success=1)
    whole, shorter = (ask for ask in played.models.of("policy", "plan") if ask.step == 2)
    assert size(whole) > 5500 >= size(shorter)


async def test_a_prm_that_is_asked_again_goes_on_in_the_form_in_which_it_scored_the_policy(data: Path) -> None:
    script = Script(
        actions=(*SHOW, "print('policy')", "stop('wrong', '')"),
        alternatives={2: ("print('expert')",)},
        scores={"print('policy')": "Score: 0.1", "print('expert')": "Score: 0.2"},
    )
    failed: list[Ask] = []

    async def answer(ask: Ask) -> Said:
        if not failed and ask.role == "prm" and ask.step == 2:
            if "print('expert')" in ask.last:
                failed.append(ask)
                return 500
            return OVERFLOW if size(ask) > 8000 else await script.answer(ask)
        return await script.answer(ask)

    played = await play(answer, data, changes={"resample.score_attempts": 1})
    assert played.summary.set_aside == []
    whole, own, refused, other = (ask for ask in played.models.of("prm") if ask.step == 2)
    assert size(whole) > 8000 >= size(own)
    assert refused.messages == other.messages
    assert size(other) <= 8000


async def test_what_fits_is_asked_as_it_is(data: Path) -> None:
    played = await play(taking(100_000, ENDS), data)
    asked = [(ask.module, ask.step) for ask in played.models.of("policy")]
    assert len(asked) == len(set(asked))


async def test_the_journal_keeps_the_request_that_was_answered(data: Path) -> None:
    played = await play(taking(5500, ENDS), data)
    taken = [ask for ask in played.models.of("policy", "action") if ask.step == 2][-1]
    async with Reader(data) as reader:
        step = (await load_steps(reader, await load_trajectory(reader, 1)))[2]
        assert step.action_call is not None
        assert await load_request(reader, step.action_call) == taken.messages
        # A step keeps what it showed, whatever a later prompt leaves out of it.
        assert (await load_steps(reader, await load_trajectory(reader, 1)))[0].observation == LONG[0]


async def test_the_expert_and_the_pair_get_what_the_policy_was_asked_in_the_end(data: Path) -> None:
    script = Script(
        actions=(*SHOW, "print('policy')", "import os\nstop('42' if os.path.exists('found') else 'wrong', '')"),
        alternatives={2: ("open('found', 'w').close()",)},
        scores={"print('policy')": "Score: 0.1", "open('found'": "Score: 0.9"},
    )
    played = await play(taking(5500, script), data)
    asked = [ask for ask in played.models.of("policy", "action", "t/0") if ask.step == 2]
    assert len(asked) == 2
    experts = [ask for ask in played.models.of("expert") if ask.step == 2]
    assert experts
    assert all(ask.messages == asked[-1].messages for ask in experts)
    async with Reader(data) as reader:
        run = await find_run(reader, "test")
        assert run is not None
        (pair,) = [pair async for pair in load_pairs(reader, run)]
    assert pair.prompt == asked[-1].messages


async def test_the_end_is_asked_with_shortened_observations_too(data: Path) -> None:
    played = await play(taking(5500, ENDS), data)
    refused, taken = played.models.of("policy", "end")
    assert shown(refused) == list(LONG.values())
    assert LONG[0] not in shown(taken)


async def test_a_policy_that_is_given_too_little_even_so_is_trouble_and_no_failure(data: Path) -> None:
    played = await play(taking(3000, ENDS), data, changes={"bus.attempts": 1})
    assert played.summary.trajectories == Outcomes(error=1)
    (letter,) = played.summary.set_aside
    assert "give the policy a longer context" in letter.error
    # Twice for what is too long, and not a third time.
    assert [ask.step for ask in played.models.of("policy", "plan")][-2:] == [2, 2]
    assert len([ask for ask in played.models.asks if ask.step == 2]) == 2


async def test_what_has_no_observation_to_shorten_is_not_asked_twice(data: Path) -> None:
    played = await play(taking(10, ENDS), data, changes={"bus.attempts": 1})
    assert len(played.models.asks) == 1
    assert played.summary.trajectories == Outcomes(error=1)


async def test_the_limit_of_the_settings_is_kept_without_asking_the_endpoint(data: Path) -> None:
    """The server has no tokenizer to ask, and counts 11 tokens whatever it gets, which is no estimate to go by."""
    played = await play(ENDS.answer, data, changes={"models.policy.max_input_tokens": 1800})
    assert played.summary.trajectories == Outcomes(success=1)
    (taken,) = (ask for ask in played.models.of("policy", "action") if ask.step == 2)
    assert LONG[0] not in shown(taken)


async def test_a_question_of_the_code_that_is_too_long_is_an_error_inside_the_code(data: Path) -> None:
    script = Script(actions=("ask_llm('y' * 30_000)", "stop('42', '')"))
    played = await play(taking(20_000, script), data)
    assert played.summary.trajectories == Outcomes(success=1)
    async with Reader(data) as reader:
        first = (await load_steps(reader, await load_trajectory(reader, 1)))[0]
    assert first.failed
    assert "the query of 30000 characters is too long for the model" in first.observation
