"""The progress state: whatever a plan holds, its literal can be read again, and a lesson can be added to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.main.replies import MAX_LITERAL_CHARACTERS, STATE_KEYS, parse_literal, render_reply
from runtime.agents.main.state import first_state, next_state, with_experience


def plan(**lists: list[str]) -> str:
    return render_reply("A plan.", repr({key: [] for key in STATE_KEYS} | lists))


def test_the_first_state_has_four_empty_lists() -> None:
    assert parse_literal(first_state()) == {key: [] for key in STATE_KEYS}


def test_a_plan_that_cannot_be_read_leaves_the_state_as_it_was() -> None:
    state = next_state(plan(todo_list=["look"]), first_state())
    assert next_state("I would rather not.", state) == state


def test_a_lesson_comes_last_and_changes_nothing_else() -> None:
    state = next_state(plan(todo_list=["look"], experience=["old"]), first_state())
    assert parse_literal(with_experience(state, 'it\'s "new"')) == {
        "completed_list": [],
        "todo_list": ["look"],
        "experience": ["old", 'it\'s "new"'],
        "information": [],
    }


def test_lessons_without_end_push_out_the_oldest() -> None:
    state = first_state()
    for number in range(500):
        state = with_experience(state, f"lesson {number} of many that are all alike")
    learnt = parse_literal(state)["experience"]
    assert isinstance(learnt, list)
    assert learnt[-1] == "lesson 499 of many that are all alike"
    assert len(learnt) < 300


def test_a_state_of_characters_that_take_ten_when_written_can_be_followed_by_another() -> None:
    """One that is too long to be read again would stay for ever."""
    item = "'" + "\U000e0001" * 700 + "', "
    lists = ", ".join(f"{key!r}: [{item * 11}]" for key in STATE_KEYS)
    state = next_state(render_reply("A plan.", f"{{{lists}}}"), first_state())
    assert state != first_state()
    assert len(state) <= MAX_LITERAL_CHARACTERS
    assert "look" in next_state(plan(todo_list=["look"]), state)


@given(st.dictionaries(st.sampled_from(STATE_KEYS), st.lists(st.text(max_size=300), max_size=40)))
def test_every_state_can_be_read_again(lists: dict[str, list[str]]) -> None:
    state = next_state(render_reply("", repr(lists)), first_state())
    assert set(parse_literal(state)) == set(STATE_KEYS)
    assert "a lesson" in with_experience(state, "a lesson")
