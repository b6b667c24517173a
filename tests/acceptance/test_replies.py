"""Replies that cannot be used: a model that writes nonsense loses a step or a score, and nothing else happens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from runtime.agents.main.replies import render_reply
from runtime.daemon import open_daemon
from store.candidates import load_candidates
from store.database import Reader
from store.export import load_pairs
from store.runs import list_runs
from store.summary import Outcomes, summarise
from store.trajectories import Step, load_steps, load_trajectory
from tests.acceptance.running import settings_for
from tests.acceptance.scripted import Ask, Script, play, scripted_models, task

GARBAGE = "%$ I would rather talk about the weather."
BAD, GOOD = "Score: 0.1", "Score: 0.9"
# Each with what the observation tells the policy.
UNUSABLE = {
    "no fence": ("Thought: easy.\nCode:\nprint(1)", "no code block"),
    "garbage": (GARBAGE, "no code block"),
    "empty": ("", "empty"),
    "cut off": ("Thought: long.\nCode:\n```python\nprint(1)", "not closed"),
    "empty block": ("Thought: short.\nCode:\n```python\n```", "empty"),
}


async def steps_of(data: Path) -> list[Step]:
    async with Reader(data) as reader:
        return await load_steps(reader, await load_trajectory(reader, 1))


@pytest.mark.parametrize("kind", UNUSABLE)
async def test_an_unusable_reply_of_the_policy_is_a_failed_step_and_the_trajectory_goes_on(
    kind: str, data: Path
) -> None:
    reply, told = UNUSABLE[kind]
    script = Script(actions=("print('begun')", "unused", "stop('42', '')"), replies={1: reply})
    played = await play(script.answer, data)
    begun, lost, stopped = await steps_of(data)
    assert (begun.failed, lost.failed, stopped.failed) == (False, True, False)
    assert told in lost.observation
    assert lost.action == reply
    assert played.summary.trajectories == Outcomes(success=1)
    (next_action,) = (ask for ask in played.models.of("policy", "action") if ask.step == 2)
    said = [message.content for message in next_action.messages if message.role == "assistant"]
    assert said == [begun.action, *([reply] if reply else [])]  # no provider takes an empty turn
    assert f"Observation of step 1:\n{lost.observation}\n" in next_action.last


async def test_a_policy_that_never_stops_thinking_loses_the_step_and_the_thoughts_stay_out_of_its_sight(
    data: Path,
) -> None:
    script = Script(actions=("unused", "stop('42', '')"), replies={0: "<think>hm, hm, hm"})
    played = await play(script.answer, data)
    lost, _ = await steps_of(data)
    assert lost.failed
    assert lost.observation
    assert played.summary.trajectories == Outcomes(success=1)


async def test_thoughts_before_an_action_are_no_part_of_it(data: Path) -> None:
    reply = f"<think>stop('41', '')?</think>\n{render_reply('Well.', 'print(6 * 7)')}"
    script = Script(actions=("unused", "stop('42', '')"), replies={0: reply})
    played = await play(script.answer, data)
    first, _ = await steps_of(data)
    assert (first.observation, first.action) == ("42", render_reply("Well.", "print(6 * 7)"))
    assert not any("41" in ask.last for ask in played.models.asks)


async def test_a_policy_that_never_writes_code_ends_by_its_steps_and_fails(data: Path) -> None:
    async def answer(ask: Ask) -> str | int:
        return GARBAGE if ask.role == "policy" else GOOD

    played = await play(answer, data, changes={"agent.max_steps": 4})
    steps = await steps_of(data)
    assert len(steps) == 6  # failed steps are given back, up to half as many again
    assert all(step.failed for step in steps)
    assert played.summary.trajectories == Outcomes(failure=1)


async def test_a_plan_that_cannot_be_read_leaves_the_progress_state_as_it_was(data: Path) -> None:
    plans = {1: GARBAGE, 2: render_reply("Hm.", "{'completed_list': [__import__('os').getpid()]}")}
    script = Script(actions=("print(0)", "print(1)", "stop('42', '')"), plans=plans)
    await play(script.answer, data)
    first, second, third = await steps_of(data)
    assert "before step 0" in first.state
    assert first.state == second.state == third.state


async def test_a_candidate_that_the_prm_gives_no_readable_score_takes_no_part(data: Path) -> None:
    script = Script(
        actions=("print('policy')", "stop('wrong', '')"),
        alternatives={0: ("stop('42', 'one')", "stop('42', 'two')")},
        scores={"print('policy')": BAD, "'one'": "Excellent. I give it 0.95 out of 1.0!", "'two'": GOOD},
    )
    played = await play(script.answer, data, changes={"resample.alternatives": 2, "resample.score_attempts": 2})
    async with Reader(data) as reader:
        candidates = await load_candidates(reader, 1, 0)
        branched = await reader.fetch("SELECT candidate FROM trajectories WHERE candidate IS NOT NULL")
    scores = {candidate.action.split("'")[3]: candidate.score for candidate in candidates[1:]}
    assert scores == {"one": None, "two": 0.9}
    assert [row["candidate"] for row in branched] == [one.id for one in candidates if one.score == 0.9]
    asked = [ask for ask in played.models.of("prm") if "'one'" in ask.last]
    assert len({ask.seed for ask in asked}) == len(asked) == 2
    assert played.summary.pairs == 1


async def test_a_step_whose_own_action_cannot_be_scored_is_left_alone(data: Path) -> None:
    script = Script(actions=("print('policy')", "stop('wrong', '')"), scores={"print('policy')": "no idea"})
    played = await play(script.answer, data)
    assert played.models.of("expert") == []
    assert (played.summary.steps_unscored, played.summary.steps_scored) == (1, 1)
    assert played.summary.pairs == played.summary.critical_candidates == 0
    assert played.summary.set_aside == []


async def test_a_proposal_without_an_action_is_neither_scored_nor_branched(data: Path) -> None:
    script = Script(actions=("print('policy')", "stop('wrong', '')"), scores={"print('policy')": BAD})

    async def answer(ask: Ask) -> str | int:
        return GARBAGE if ask.role == "expert" else await script.answer(ask)

    played = await play(answer, data, changes={"resample.alternatives": 3})
    async with Reader(data) as reader:
        candidates = await load_candidates(reader, 1, 0)
    assert [(one.usable, one.score) for one in candidates] == [(True, 0.1)] + [(False, None)] * 3
    assert len(played.models.of("prm")) == 2  # the policy's own two actions
    assert played.summary.branches == Outcomes()


async def test_a_reply_of_the_policy_without_an_action_can_be_what_is_rejected(data: Path) -> None:
    script = Script(
        actions=("unused", "stop('wrong', '')"),
        replies={0: GARBAGE},
        alternatives={0: ("stop('42', 'better')",)},
        scores={"better": GOOD, "'wrong'": "Score: 0.7", "": BAD},
    )
    played = await play(script.answer, data, changes={"resample.alternatives": 1})
    async with Reader(data) as reader:
        (pair,) = [pair async for pair in load_pairs(reader, (await list_runs(reader))[0])]
    assert pair.rejected == GARBAGE
    assert pair.step == 0
    assert played.summary.pairs == 1


async def test_a_judge_without_a_verdict_is_trouble_and_no_verdict(data: Path) -> None:
    script = Script(actions=("stop('42', '')",), verdict="It depends.")
    played = await play(script.answer, data, changes={"judge.method": "model", "bus.attempts": 2})
    assert played.summary.trajectories == Outcomes(error=1)
    (letter,) = played.summary.set_aside
    assert "no readable verdict" in letter.error
    assert letter.deliveries == 1
    assert len(played.models.of("judge")) == 3  # another delivery would be answered alike


async def test_a_judge_without_a_verdict_is_asked_no_more_because_another_rollout_is_repeated(data: Path) -> None:
    script = Script(actions=("stop('42', '')",), verdict="It depends.")
    failures: list[Ask] = []

    async def answer(ask: Ask) -> str | int:
        if ask.trajectory == "t/1" and ask.module == "end" and len(failures) < 4:
            failures.append(ask)
            return 500
        return await script.answer(ask)

    changes = {"judge.method": "model", "run.trajectories": 2, "bus.attempts": 9}
    played = await play(answer, data, changes=changes)
    assert played.summary.trajectories == Outcomes(error=2)
    assert len(played.models.of("judge")) == 6


async def test_a_judge_without_a_verdict_is_asked_for_new_ones_when_its_work_is_put_back(data: Path) -> None:
    before = Script(actions=("stop('42', '')",), verdict="It depends.")
    changes = {"judge.method": "model"}
    await play(before.answer, data, changes=changes)
    async with scripted_models(replace(before, verdict="Verdict: yes").answer) as models:
        with anyio.fail_after(60):
            async with open_daemon(settings_for(models.url, data, changes), {}) as daemon:
                assert await daemon.control.retry() == 1
                await daemon.work(until_drained=True)
                summary = await summarise(daemon.database, daemon.run)
    assert summary.trajectories == Outcomes(success=1)
    assert [ask.role for ask in models.asks] == ["judge"]


async def test_tasks_beside_one_whose_model_writes_nonsense_are_not_touched(data: Path) -> None:
    script = Script(actions=("stop('42', '')",))

    async def answer(ask: Ask) -> str | int:
        return GARBAGE if ask.task == "odd" and ask.module != "score" else await script.answer(ask)

    played = await play(answer, data, tasks=[task("odd"), *(task(f"even-{number}") for number in range(4))])
    assert played.summary.trajectories == Outcomes(success=4, failure=1)
    assert played.summary.tasks_finished == 5
