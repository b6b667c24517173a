"""Draws hang on their key alone."""

from __future__ import annotations

from runtime.simulation.chance import Chance, key_number


def test_the_same_key_gives_the_same_draws_and_another_key_others() -> None:
    first, again, other = Chance("a", 1), Chance("a", 1), Chance("a", 2)
    draws = [first.below(1000) for _ in range(20)]
    assert [again.below(1000) for _ in range(20)] == draws
    assert [other.below(1000) for _ in range(20)] != draws


def test_draws_are_the_same_in_every_version_of_the_program() -> None:
    chance = Chance(7, "fixed")
    assert (key_number(7, "fixed"), [chance.below(100) for _ in range(5)]) == (
        1716819191881995217,
        [3, 24, 56, 30, 90],
    )


def test_parts_of_a_key_do_not_run_together() -> None:
    assert key_number("ab", "c") != key_number("a", "bc")


def test_draws_stay_in_range_and_reach_all_of_it() -> None:
    chance = Chance("range")
    assert {chance.between(3, 6) for _ in range(200)} == {3, 4, 5, 6}
    assert all(0 <= chance.unit() < 1 for _ in range(200))
    assert not any(chance.happens(0.0) for _ in range(200))
    assert all(chance.happens(1.0) for _ in range(200))


def test_shuffling_keeps_all_items() -> None:
    shuffled = Chance("shuffle").shuffled(range(30))
    assert sorted(shuffled) == list(range(30))
    assert shuffled != list(range(30))
