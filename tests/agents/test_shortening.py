"""Shortening: the middle goes first, the oldest text before the newer ones, and never more than is asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.agents.shortening import MARK_CHARACTERS, STUB_CHARACTERS, shorten, shorten_oldest

LONGEST_STUB = STUB_CHARACTERS + MARK_CHARACTERS


def test_a_short_text_stays_as_it_is() -> None:
    assert shorten("abc", 3) == "abc"


def test_the_middle_of_a_long_text_is_left_out_and_counted() -> None:
    assert shorten("a" * 50 + "b" * 50 + "c" * 50, 100) == "a" * 50 + "\n[… 50 characters left out …]\n" + "c" * 50


def test_a_limit_of_nothing_leaves_nothing_but_the_count() -> None:
    assert shorten("abc", 1) == "\n[… 3 characters left out …]\n"


def test_the_oldest_gives_all_that_it_can_before_the_next_one_has_to() -> None:
    old, middle, new = shorten_oldest(["a" * 2000, "b" * 2000, "c" * 2000], 2500)
    assert len(old) <= LONGEST_STUB
    assert 1000 < len(middle) < 2000
    assert new == "c" * 2000


def test_texts_that_are_stubs_already_stay_as_they_are() -> None:
    texts = ["a" * STUB_CHARACTERS, "b" * LONGEST_STUB, ""]
    assert shorten_oldest(texts, 10_000) == texts


@given(st.lists(st.integers(0, 3000).map("x".__mul__), max_size=6), st.integers(-10, 20_000))
def test_what_is_asked_for_is_given_if_it_is_there_and_no_more(texts: list[str], excess: int) -> None:
    shorter = shorten_oldest(texts, excess)
    won = sum(map(len, texts)) - sum(map(len, shorter))
    assert all(len(short) <= len(text) for short, text in zip(shorter, texts, strict=True))
    assert won <= max(0, excess + MARK_CHARACTERS)
    if won < excess:
        assert all(len(short) <= LONGEST_STUB for short in shorter)
