"""The stand-ins for policy and expert: what they plan, do, end with and offer."""

from __future__ import annotations

import pytest

from runtime.agents.main.replies import parse_end, parse_literal, parse_reply, render_reply
from runtime.simulation.standins import Habits, Standins
from runtime.simulation.world import Kind, Role, ScenarioTask, World
from tests.simulation import asking

WORLD = World.generate(1, 48)
STANDINS = Standins(WORLD)


def first_of(kind: Kind) -> ScenarioTask:
    """The first task of a kind."""
    return next(task for task in WORLD.tasks if task.kind is kind)


def test_the_policy_takes_the_action_of_its_script_whatever_the_seed() -> None:
    for task in WORLD.tasks:
        for index, step in enumerate(task.steps):
            replies = {STANDINS.reply(asking.action(task, index, seed=seed)) for seed in range(4)}
            assert {parse_reply(reply).code for reply in replies} == {step.policy.code}


def test_wording_varies_with_the_seed_and_is_of_a_natural_length() -> None:
    task = WORLD.tasks[0]
    thoughts = {parse_reply(STANDINS.reply(asking.action(task, 1, seed=seed))).thought for seed in range(20)}
    assert len(thoughts) > 8
    assert all(60 < len(thought) < 400 for thought in thoughts)


def test_every_reply_is_in_the_canonical_form() -> None:
    for task in WORLD.tasks[:12]:
        for index in range(len(task.steps)):
            for model in ("sim-policy", "sim-expert"):
                for request in (asking.action(task, index, model=model), asking.plan(task, index, model=model)):
                    text = STANDINS.reply(request)
                    reply = parse_reply(text)
                    assert reply.problem is None
                    assert render_reply(reply.thought, reply.code) == text


def test_the_plan_moves_a_step_that_worked_to_the_completed_list() -> None:
    task = WORLD.tasks[0]
    state = {"completed_list": [task.steps[0].title], "experience": [], "information": ["Step 0: fine"]}
    request = asking.plan(task, 2, observation="12 lines\nmore", state=repr(state))
    plan = parse_literal(parse_reply(STANDINS.reply(request)).code)
    assert plan["completed_list"] == [task.steps[0].title, task.steps[1].title]
    assert plan["todo_list"] == [step.title for step in task.steps[2:]]
    assert plan["information"] == ["Step 0: fine", "Step 1: 12 lines"]
    assert plan["experience"] == []


def test_the_plan_learns_from_a_step_that_failed() -> None:
    task = WORLD.tasks[0]
    observation = "Traceback (most recent call last):\n  ...\nFileNotFoundError: [Errno 2] no such file: 'a.csv'"
    plan = parse_literal(parse_reply(STANDINS.reply(asking.plan(task, 1, observation=observation))).code)
    assert plan["completed_list"] == []
    assert "FileNotFoundError: [Errno 2] no such file: 'a.csv'" in str(plan["experience"])


@pytest.mark.parametrize("state", ["{}", "", "not a literal (", "['a list']", "{'completed_list': 3}"])
def test_the_plan_starts_afresh_from_a_state_that_it_cannot_read(state: str) -> None:
    task = WORLD.tasks[0]
    plan = parse_literal(parse_reply(STANDINS.reply(asking.plan(task, 0, state=state))).code)
    assert plan["completed_list"] == []
    assert plan["todo_list"] == [step.title for step in task.steps]


@pytest.mark.parametrize(
    ("given", "direct", "output"),
    [("42", None, "42"), ("none", "41", "41"), ("none", None, ""), ("a, b\nc", None, "a, b\nc"), ("7", "8", "7")],
)
def test_the_end_gives_the_result_or_else_the_direct_answer(given: str, direct: str | None, output: str) -> None:
    reply = STANDINS.reply(asking.end(WORLD.tasks[0], given, direct))
    assert parse_end(parse_reply(reply)).output == output


def test_the_direct_answer_is_the_guess() -> None:
    for task in WORLD.tasks:
        assert STANDINS.reply(asking.body("sim-policy", f"Task: {task.question}")) == task.guess


def test_a_question_for_a_fact_is_answered_with_the_fact_of_its_edition() -> None:
    task = next(task for task in WORLD.tasks if task.replies)
    for year, number in task.replies.items():
        query = f"How much is one unit of {task.reference} by the {year} edition?"
        assert STANDINS.reply(asking.body("sim-policy", query)) == number
    advice = STANDINS.reply(asking.body("sim-policy", f"Anything odd about {task.reference}?"))
    assert advice not in task.replies.values()


def test_consecutive_seeds_bring_all_of_the_experts_options() -> None:
    for task in WORLD.tasks:
        for index, step in enumerate(task.steps):
            for base in (0, 17):
                seeds = range(base, base + 5)
                requests = [asking.action(task, index, model="sim-expert", seed=seed) for seed in seeds]
                offered = {parse_reply(STANDINS.reply(request)).code for request in requests}
                assert offered == {option.code for option in step.options}
                assert step.best.code in offered


def test_among_the_options_are_copies_duplicates_and_other_mistakes() -> None:
    copies = duplicates = mistakes = 0
    for task in WORLD.tasks:
        for step in task.steps:
            copies += any(option.code == step.policy.code for option in step.options)
            duplicates += any("\n# " in option.code or option.code.startswith("# ") for option in step.options)
            mistakes += any(not option.right and option.code != step.policy.code for option in step.options)
    assert min(copies, duplicates, mistakes) > 40


def test_the_expert_words_its_thoughts_in_its_own_way() -> None:
    task = WORLD.tasks[0]
    own = {parse_reply(STANDINS.reply(asking.action(task, 0, seed=seed))).thought for seed in range(30)}
    other = {
        parse_reply(STANDINS.reply(asking.action(task, 0, model="sim-expert", seed=seed))).thought
        for seed in range(30)
    }
    assert not own & other


def test_a_lucky_policy_is_sometimes_right_at_a_decisive_step_by_its_seed() -> None:
    task = first_of(Kind.SINGLE)
    index = next(place for place, step in enumerate(task.steps) if step.role is Role.DECISIVE)
    lucky = Standins(WORLD, Habits(lucky=0.3))
    codes = [parse_reply(lucky.reply(asking.action(task, index, seed=seed))).code for seed in range(300)]
    assert set(codes) == {task.steps[index].policy.code, task.steps[index].best.code}
    assert 0.2 < codes.count(task.steps[index].best.code) / 300 < 0.4
    assert codes == [parse_reply(lucky.reply(asking.action(task, index, seed=seed))).code for seed in range(300)]


def test_luck_changes_nothing_at_other_steps() -> None:
    lucky = Standins(WORLD, Habits(lucky=1.0))
    task = first_of(Kind.SOLVED)
    for index, step in enumerate(task.steps):
        assert parse_reply(lucky.reply(asking.action(task, index))).code == step.policy.code


def test_beyond_its_script_the_policy_looks_on_or_gives_up() -> None:
    endless = next(task for task in World.generate(1, 240).tasks if task.endless)
    standins = Standins(World.generate(1, 240))
    for index in range(len(endless.steps), 14):
        assert "stop(" not in parse_reply(standins.reply(asking.action(endless, index))).code
    other = first_of(Kind.SINGLE)
    last = parse_reply(STANDINS.reply(asking.action(other, len(other.steps) + 1))).code
    assert 'stop("unknown"' in last


def test_thinking_stands_before_some_replies_and_never_before_answers_to_code() -> None:
    thoughtful = Standins(WORLD, Habits(thinking=0.5))
    task = next(task for task in WORLD.tasks if task.replies)
    replies = [thoughtful.reply(asking.action(task, 1, seed=seed)) for seed in range(60)]
    assert 15 < sum(reply.startswith("<think>\n") for reply in replies) < 45
    assert {parse_reply(reply).code for reply in replies} == {task.steps[1].policy.code}
    year, number = next(iter(task.replies.items()))
    assert thoughtful.reply(asking.body("sim-policy", f"{task.reference}, {year} edition?")) == number
