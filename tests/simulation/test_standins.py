"""The stand-ins as a whole: which model answers what, and that only contents count."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.agents.main.replies import parse_reply
from runtime.simulation.inquiry import InquiryError
from runtime.simulation.standins import Habits, Standins, UnknownModelError
from runtime.simulation.world import World
from tests.simulation import asking

WORLD = World.generate(1, 24)
STANDINS = Standins(WORLD)
TASK = WORLD.tasks[0]


def test_the_order_of_requests_makes_no_difference() -> None:
    requests = [
        asking.action(task, index, model=model) for task in WORLD.tasks for index in (0, 2) for model in MODELS
    ]
    forth = [STANDINS.reply(request) for request in requests]
    back = [Standins(World.generate(1, 24)).reply(request) for request in reversed(requests)]
    assert forth == back[::-1]


def test_without_a_seed_the_messages_decide() -> None:
    request = asking.action(TASK, 0, seed=None)
    assert STANDINS.reply(request) == STANDINS.reply(dict(reversed(request.items())))


def test_sampling_parameters_make_no_difference() -> None:
    request = asking.action(TASK, 0)
    assert STANDINS.reply({**request, "temperature": 1.0, "max_tokens": 9}) == STANDINS.reply(request)


def test_contents_in_parts_are_read() -> None:
    request = asking.action(TASK, 0)
    parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in request["messages"]]
    assert STANDINS.reply({**request, "messages": parts}) == STANDINS.reply(request)


def test_a_model_that_is_none_of_them_is_unknown() -> None:
    with pytest.raises(UnknownModelError, match="gpt-9"):
        STANDINS.reply({**asking.action(TASK, 0), "model": "gpt-9"})


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"model": "sim-policy"},
        {"model": 3, "messages": [{"role": "user", "content": "a"}]},
        {"model": "sim-policy", "messages": []},
        {"model": "sim-policy", "messages": "hello"},
        {"model": "sim-policy", "messages": ["hello"]},
        {"model": "sim-policy", "messages": [{"role": "system", "content": "a"}]},
        {"model": "sim-policy", "messages": [{"role": "user"}]},
        {"model": "sim-policy", "messages": [{"role": "user", "content": None}]},
    ],
)
def test_what_is_no_chat_request_is_refused(body: Any) -> None:
    with pytest.raises(InquiryError):
        STANDINS.reply(body)


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_habits_are_probabilities(value: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Habits(lucky=value)


def test_a_users_own_task_is_worked_at_to_an_end() -> None:
    question = "Task: Who wrote the longest letter in the archive?"
    codes = []
    for index in range(10):
        turn = f"{question}\n\nProgress state at step {index}:\n{{}}\n\nWrite the action of step {index}."
        reply = parse_reply(STANDINS.reply(asking.body("sim-policy", turn)))
        assert reply.problem is None
        codes.append(reply.code)
    assert any("stop(" in code for code in codes)


def test_a_users_own_task_has_a_step_or_two_that_look_bad() -> None:
    question = "Which of the two lists is longer?"
    low = []
    for index in range(10):
        closing = f"Progress state at step {index}:\n{{}}\n\nWrite the action of step {index}."
        code = parse_reply(STANDINS.reply(asking.body("sim-policy", f"Task: {question}\n\n{closing}"))).code
        scoring = (
            f"Task: {question}\n\nCandidate action of step {index}:\n```python\n{code}\n```\n\nScore this candidate."
        )
        score = float(STANDINS.reply(asking.body("sim-prm", scoring)).split()[-1])
        low.append(score < 0.5)
    assert 1 <= sum(low) <= 2


MODELS = ("sim-policy", "sim-expert")
