"""The main agent: what the policy sees, what its code can do, and how a run ends whatever the model writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from runtime.agents.base import Action
from runtime.agents.main import tools
from runtime.agents.main.agent import MODULES, MainAgent, load_prompts
from runtime.agents.main.replies import render_reply
from runtime.config.settings import Settings
from runtime.daemon import open_daemon
from runtime.errors import ConfigError
from runtime.sandbox import Execution, Limits, ProcessSandbox, Tool
from store.database import Reader
from store.trajectories import Step, load_steps, load_trajectory
from tests.acceptance.running import settings_for
from tests.acceptance.scripted import Ask, Played, Script, play

GARBAGE = "I would rather not."


async def steps_of(played: Played) -> list[Step]:
    async with Reader(played.data) as reader:
        return await load_steps(reader, await load_trajectory(reader, 1))


async def answer_of(played: Played) -> str | None:
    async with Reader(played.data) as reader:
        return (await load_trajectory(reader, 1)).answer


async def observations(data: Path, *actions: str, **changes: object) -> list[str]:
    """What some programs print, the last of which ends the run."""
    played = await play(Script(actions=(*actions, "stop('42', '')")).answer, data, changes=changes)
    return [step.observation for step in (await steps_of(played))[:-1]]


def asked_at(played: Played, module: str, step: int) -> Ask:
    (ask,) = (ask for ask in played.models.of("policy", module, "t/0") if ask.step == step)
    return ask


async def test_each_step_asks_for_a_plan_and_then_for_an_action_over_that_plans_state(data: Path) -> None:
    played = await play(Script(actions=("print('one')", "stop('42', '')")).answer, data)
    assert [(ask.module, ask.step) for ask in played.models.of("policy")] == [
        ("plan", 0),
        ("action", 0),
        ("plan", 1),
        ("action", 1),
        ("end", -1),
    ]
    first, second = await steps_of(played)
    assert asked_at(played, "plan", 1).last.endswith(
        f"Observation of step 0:\none\n\nProgress state before step 1:\n{first.state}\n\nWrite the plan of step 1."
    )
    assert asked_at(played, "action", 1).last.endswith(
        f"Progress state at step 1:\n{second.state}\n\nWrite the action of step 1."
    )
    assert "before step 1" in second.state


async def test_the_sandbox_expects_the_code_of_a_step_on_the_terms_on_which_it_runs_and_forgets_a_rollout(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[tuple[int, Path, tuple[str, ...], Limits]] = []
    ran: list[tuple[int, Path, tuple[str, ...], Limits]] = []
    expect, run = ProcessSandbox.expect, ProcessSandbox.run

    def noted_expect(sandbox: ProcessSandbox, workspace: Path, *, tools: Collection[str], limits: Limits) -> None:
        expected.append((len(ran), workspace, tuple(tools), limits))
        expect(sandbox, workspace, tools=tools, limits=limits)

    async def noted_run(
        sandbox: ProcessSandbox, code: str, *, workspace: Path, tools: Mapping[str, Tool], limits: Limits
    ) -> Execution:
        ran.append((len(ran), workspace, tuple(tools), limits))
        return await run(sandbox, code, workspace=workspace, tools=tools, limits=limits)

    monkeypatch.setattr(ProcessSandbox, "expect", noted_expect)
    monkeypatch.setattr(ProcessSandbox, "run", noted_run)
    forgotten: list[Path] = []
    monkeypatch.setattr(ProcessSandbox, "forget", lambda _sandbox, workspace: forgotten.append(workspace))
    await play(Script(actions=("print('one')", "stop('42', '')")).answer, data)
    assert len(ran) == 2
    assert expected == ran
    assert forgotten == [workspace for _, workspace, _, _ in ran[:1]]


async def test_the_first_state_has_the_four_lists_and_nothing_in_them(data: Path) -> None:
    played = await play(Script(actions=("stop('42', '')",)).answer, data)
    last = asked_at(played, "plan", 0).last
    assert last.startswith("Task: What is the answer to t?\n\nProgress state before step 0:\n{")
    for key in ("completed_list", "todo_list", "experience", "information"):
        assert f"'{key}': []" in last


async def test_user_and_assistant_take_turns_and_the_user_has_the_last_word(data: Path) -> None:
    actions = (*(f"print({step})" for step in range(4)), "stop('42', '')")
    played = await play(Script(actions=actions, replies={2: GARBAGE}).answer, data)
    for ask in played.models.of("policy"):
        roles = [message.role for message in ask.messages]
        assert roles[0] == "system"
        assert roles[1:] == ["user" if number % 2 == 0 else "assistant" for number in range(len(roles) - 1)]
        assert roles[-1] == "user"


async def test_older_steps_leave_the_prompt_and_the_prompt_says_so(data: Path) -> None:
    actions = (*(f"print('seen {step}')" for step in range(5)), "stop('42', '')")
    played = await play(Script(actions=actions).answer, data, changes={"agent.recent_steps": 2})
    messages = asked_at(played, "action", 4).messages
    assert len(messages) == 6
    text = "\n".join(message.content for message in messages)
    assert [step for step in range(5) if f"Observation of step {step}:\nseen {step}" in text] == [2, 3]
    assert messages[1].content.endswith("(Steps 0 to 1 are not shown; the progress state keeps what they found.)")


async def test_each_module_has_its_own_system_message(data: Path) -> None:
    played = await play(Script(actions=("stop('42', '')",)).answer, data)
    prompts = load_prompts({})
    for module in MODULES:
        assert played.models.of("policy", module)[0].messages[0].content == prompts[module]
    assert len(set(prompts.values())) == len(MODULES)


async def test_a_users_prompt_takes_the_place_of_ours(data: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.txt").write_text("Plan like a pirate.\n")
    played = await play(
        Script(actions=("stop('42', '')",)).answer, data, changes={"agent.prompts": {"plan": tmp_path / "plan.txt"}}
    )
    assert asked_at(played, "plan", 0).messages[0].content == "Plan like a pirate."


async def test_a_prompt_for_a_module_that_does_not_exist_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "dance.txt").write_text("Dance.")
    changes = {"agent.prompts": {"dance": tmp_path / "dance.txt"}}
    settings: Settings = settings_for("http://127.0.0.1:9/v1", data, changes)
    with pytest.raises(ConfigError, match=r"agent\.prompts\.dance.*plan, action, end"):
        async with open_daemon(settings, {}):
            pass


async def test_stop_gives_its_value_back_and_ends_the_run_after_the_step(data: Path) -> None:
    played = await play(Script(actions=("given = stop(42, ['a', 1])\nprint(given)",)).answer, data)
    (step,) = await steps_of(played)
    assert json.loads(step.result or "") == {"output": "42", "log": "['a', 1]"}
    assert step.observation == "{'output': '42', 'log': \"['a', 1]\"}"


async def test_ask_llm_is_a_question_outside_of_the_conversation(data: Path) -> None:
    script = Script(actions=("print(ask_llm('Is it 42?'), ask_llm('Sure?'))", "stop('42', '')"), direct="so they say")
    played = await play(script.answer, data)
    asked = played.models.of("policy", "ask")
    assert [[(one.role, one.content) for one in ask.messages] for ask in asked] == [
        [("user", "Is it 42?")],
        [("user", "Sure?")],
    ]
    assert [ask.step for ask in asked] == [0, 0]
    assert (await steps_of(played))[0].observation == "so they say so they say"


async def test_code_that_asks_for_ever_ends_its_step_and_buys_no_more_than_a_step_may(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "MOST_ASKS", 3)
    ask_on = "n = 0\nwhile True:\n    n += 1\n    ask_llm(f'again {n}')"
    played = await play(Script(actions=(ask_on, "stop('42', '')")).answer, data)
    first, _ = await steps_of(played)
    assert first.failed
    assert "ToolError: ask_llm can be called 3 times in a step" in first.observation
    assert len(played.models.of("policy", "ask")) == 3


async def test_a_model_is_not_asked_once_the_time_of_the_run_is_over(data: Path) -> None:
    script = Script(actions=("print(ask_llm('one'))\nprint(ask_llm('two'))", "stop('42', '')"))

    async def answer(ask: Ask) -> str | int:
        if ask.module == "ask":
            await anyio.sleep(3.0)
        return await script.answer(ask)

    played = await play(answer, data, changes={"agent.time_limit": 3.0})
    (step,) = await steps_of(played)
    assert "ToolError: the time of the run is over" in step.observation
    assert len(played.models.of("policy", "ask")) == 1


async def test_arguments_that_are_nested_too_deeply_are_the_codes_own_mistake(data: Path) -> None:
    nested = "import sys\nsys.setrecursionlimit(10_000)\nx = []\nfor _ in range(1010):\n    x = [x]\n"
    (told,) = await observations(data, f"{nested}try:\n    ask_llm(x)\nexcept ToolError as error:\n    print(error)")
    assert told == "what was given is nested too deeply"


async def test_a_result_of_any_length_can_be_concluded(data: Path) -> None:
    played = await play(Script(actions=("stop('4' * 400_000, 'log')",)).answer, data)
    (end,) = played.models.of("policy", "end")
    assert "Result given: 444" in end.last
    assert "[… 391808 characters left out …]" in end.last
    assert len(end.last) < 20_000
    assert played.summary.tasks_finished == 1


async def test_what_a_tool_refuses_is_an_error_inside_the_code_that_it_can_handle(data: Path) -> None:
    refused, handled = await observations(
        data,
        "simple_web_search('anything')",
        "try:\n    ask_llm('  ')\nexcept Exception as error:\n    print('caught', error)",
    )
    assert "web search is not available in this run" in refused
    assert handled.startswith("caught ask_llm needs a query")


async def test_an_endpoint_that_fails_inside_ask_llm_is_trouble_and_not_the_codes_to_handle(data: Path) -> None:
    script = Script(
        actions=("try:\n    print(ask_llm('?'))\nexcept BaseException:\n    print('mine')", "stop('42', '')")
    )
    failures: list[int] = []

    async def answer(ask: Ask) -> str | int:
        if ask.module == "ask" and len(failures) < 2:
            failures.append(1)
            return 500
        return await script.answer(ask)

    played = await play(answer, data)
    assert len(failures) == 2
    assert (await steps_of(played))[0].observation == "no idea"


async def test_errors_of_the_code_are_shown_with_what_was_printed_before_them(data: Path) -> None:
    (seen,) = await observations(data, "print('so far')\n1 / 0")
    assert seen.startswith("so far\n")
    assert "ZeroDivisionError" in seen


async def test_a_silent_program_and_a_huge_print_are_both_told(data: Path) -> None:
    silent, huge = await observations(
        data, "x = 1", "print('a' * 3000 + 'z' * 3000)", **{"agent.observation_chars": 100}
    )
    assert silent == "(nothing was printed)"
    assert huge == f"{'a' * 50}\n[… 5900 characters left out …]\n{'z' * 50}"


async def test_no_literal_that_a_model_writes_is_ever_evaluated(data: Path, tmp_path: Path) -> None:
    trace = tmp_path / "evaluated"
    attack = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    script = Script(
        actions=("stop('42', '')",),
        plans={0: render_reply("Hm.", f"{{'completed_list': [{attack}]}}")},
        ends=(render_reply("Hm.", f"{{'output': {attack}, 'log': ''}}"),),
    )
    played = await play(script.answer, data)
    assert not trace.exists()
    assert await answer_of(played) == "42"  # what the run itself gave


async def test_an_end_that_cannot_be_read_is_asked_for_once_more_with_another_seed(data: Path) -> None:
    script = Script(actions=("stop('41', '')",))
    said: list[int] = []

    async def answer(ask: Ask) -> str | int:
        if ask.module != "end":
            return await script.answer(ask)
        said.append(ask.seed)
        return GARBAGE if len(said) == 1 else render_reply("Corrected.", "{'output': '42', 'log': ''}")

    played = await play(answer, data)
    assert len(set(said)) == len(said) == 2
    assert await answer_of(played) == "42"
    assert played.summary.trajectories.success == 1


@pytest.mark.parametrize(("direct", "judged"), [("42", "success"), ("  41 ", "failure")])
async def test_without_a_readable_end_and_result_the_direct_answer_counts(
    direct: str, judged: str, data: Path
) -> None:
    script = Script(actions=("print(1)",), direct=direct, ends=(GARBAGE,))
    played = await play(script.answer, data, changes={"agent.max_steps": 1})
    (asked,) = played.models.of("policy", "direct")
    assert [(one.role, one.content) for one in asked.messages] == [("user", "Task: What is the answer to t?")]
    assert await answer_of(played) == direct.strip()
    assert getattr(played.summary.trajectories, judged) == 1


async def test_reading_an_action_twice_gives_the_same_action() -> None:
    agent = MainAgent()
    once = await agent.read(
        "  Thought:   well\n\nCode:\n```py\nprint(1)\n```\n```python\nprint(2)\n```\ntrailing words"
    )
    assert once.usable
    assert await agent.read(once.text) == once


async def test_a_long_reply_is_read_beside_everything_else() -> None:
    read: list[Action] = []

    async def read_one() -> None:
        read.append(await MainAgent().read("```\n" * 100_000))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_one)
        rounds = 0
        while not read:
            await anyio.lowlevel.checkpoint()
            rounds += 1
    assert rounds > 2  # of the loop, meanwhile: read on it, there would be one
    assert not read[0].usable


async def test_a_reply_without_an_action_is_kept_as_it_was_written() -> None:
    action = await MainAgent().read(GARBAGE)
    assert (action.text, action.usable, action.code) == (GARBAGE, False, "")
