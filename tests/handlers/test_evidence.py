"""The rule that verify and prefer share: which alternatives are worth a branch, and when branches are evidence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from handlers.evidence import alternatives_to_verify, verified
from runtime.config.settings import Verify
from store.candidates import Candidate
from store.events import Outcome
from store.trajectories import Fork, Trajectory

OWN, BETTER, OTHER = 1, 2, 3


def candidate(
    ordinal: int, score: float | None, *, usable: bool = True, duplicate_of: int | None = None
) -> Candidate:
    return Candidate(
        id=ordinal + 1,
        trajectory=1,
        step=0,
        ordinal=ordinal,
        action=f"action {ordinal}",
        duplicate_of=duplicate_of,
        usable=usable,
        score=score,
    )


def branches(taken: int, outcomes: Sequence[Outcome | None]) -> list[Trajectory]:
    fork = Fork(parent=1, step=0, candidate=taken)
    return [
        Trajectory(
            id=10 * taken + number,
            run=1,
            task=1,
            label=f"t/0@0.{taken}.{number}",
            fork=fork,
            ordinal=number,
            outcome=outcome,
            stop_reason=None,
            answer=None,
            error=None,
        )
        for number, outcome in enumerate(outcomes)
    ]


def decide(settings: Verify, found: Sequence[Trajectory]) -> tuple[int, int, int, int] | None:
    evidence = verified(settings, found, alternative=candidate(1, 0.9), own=candidate(0, 0.1))
    if evidence is None:
        return None
    return evidence.successes, evidence.rollouts, evidence.control_successes, evidence.controls


def test_alternatives_go_highest_score_first_and_then_first_proposed() -> None:
    found = alternatives_to_verify(
        [candidate(0, 0.1), candidate(1, 0.7), candidate(2, 0.9), candidate(3, 0.7), candidate(4, 0.95)], 0.6
    )
    assert [one.ordinal for one in found] == [4, 2, 1, 3]


def test_what_is_not_good_and_new_and_usable_and_an_alternative_is_left_out() -> None:
    found = alternatives_to_verify(
        [
            candidate(0, 0.99),  # the policy's own
            candidate(1, 0.6),  # not above the threshold
            candidate(2, None),
            candidate(3, 0.9, usable=False),
            candidate(4, 0.9, duplicate_of=1),
            candidate(5, 0.61),
        ],
        0.6,
    )
    assert [one.ordinal for one in found] == [5]


def test_one_success_of_one_branch_is_evidence_where_one_is_asked_for() -> None:
    assert decide(Verify(), branches(BETTER, ["success"])) == (1, 1, 0, 0)


@pytest.mark.parametrize("outcome", ["failure", "error", None])
def test_a_branch_that_did_not_succeed_is_none(outcome: Outcome | None) -> None:
    assert decide(Verify(), branches(BETTER, [outcome])) is None


def test_branches_of_other_alternatives_do_not_count() -> None:
    assert decide(Verify(), branches(OTHER, ["success"])) is None


@pytest.mark.parametrize("missing", ["error", None])
def test_nothing_is_decided_while_a_branch_or_a_control_is_missing(missing: Outcome | None) -> None:
    settings = Verify(rollouts=3, controls=2)
    whole = [*branches(BETTER, ["success", "success", "failure"]), *branches(OWN, ["failure", "failure"])]
    assert decide(settings, whole) == (2, 3, 0, 2)
    assert decide(settings, [*branches(BETTER, ["success", "success", missing]), *whole[3:]]) is None
    assert decide(settings, [*whole[:3], *branches(OWN, ["failure", missing])]) is None


@pytest.mark.parametrize(
    ("margin", "successes", "controls", "made"),
    [
        (0.0, 1, 0, True),
        (0.0, 1, 1, False),  # no better than doing nothing
        (0.0, 2, 1, True),
        (0.5, 2, 1, False),  # the gain must exceed the margin
        (0.5, 3, 1, False),  # exactly the margin
        (0.5, 4, 1, True),
        (0.5, 4, 2, False),
        (0.0, 0, 0, False),
        (0.0, 2, 4, False),  # worse than doing nothing
    ],
)
def test_the_gain_over_the_controls_must_exceed_the_margin(
    margin: float, successes: int, controls: int, made: bool
) -> None:
    def outcomes(count: int) -> list[Outcome]:
        ends: tuple[Outcome, Outcome] = ("success", "failure")
        return [ends[number >= count] for number in range(4)]

    settings = Verify(rollouts=4, controls=4, margin=margin)
    found = decide(settings, [*branches(BETTER, outcomes(successes)), *branches(OWN, outcomes(controls))])
    assert found == ((successes, 4, controls, 4) if made else None)
