"""Rollouts and controls: with a policy that may succeed by luck, a pair needs more than luck."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from runtime.simulation.standins import Habits
from runtime.simulation.world import World
from store.database import Reader
from tests.acceptance.running import finished_run

ROLLOUTS, CONTROLS, MARGIN = 3, 2, 0.34


@dataclass(slots=True)
class Tried:
    """The outcomes at one step: by alternative, and of the controls."""

    alternatives: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    controls: list[str] = field(default_factory=list)


def rate(outcomes: list[str]) -> float:
    return outcomes.count("success") / len(outcomes)


async def tried_steps(reader: Reader) -> dict[tuple[int, int], Tried]:
    found: dict[tuple[int, int], Tried] = defaultdict(Tried)
    for row in await reader.fetch(
        "SELECT t.parent, t.fork, t.candidate, t.outcome, c.ordinal FROM trajectories t"
        " JOIN candidates c ON c.id = t.candidate"
    ):
        step = found[row["parent"], row["fork"]]
        (step.alternatives[row["candidate"]] if row["ordinal"] else step.controls).append(row["outcome"])
    return dict(found)


async def test_a_pair_is_made_exactly_where_the_gain_over_the_controls_exceeds_the_margin(data: Path) -> None:
    changes = {
        "verify.rollouts": ROLLOUTS,
        "verify.controls": CONTROLS,
        "verify.margin": MARGIN,
        "verify.first_success": False,
        "run.rollouts": 8,
    }
    async with (
        finished_run(World.generate(7, 6), data, habits=Habits(lucky=0.4), changes=changes) as done,
        Reader(data) as reader,
    ):
        steps = await tried_steps(reader)
        made = {row["candidate"]: row for row in await reader.fetch("SELECT * FROM pairs")}
        assert done.summary.set_aside == []
    outcomes = [outcomes for step in steps.values() for outcomes in step.alternatives.values()]
    assert {len(one) for one in outcomes} == {ROLLOUTS}
    assert {len(step.controls) for step in steps.values()} == {CONTROLS}
    expected = {
        candidate
        for step in steps.values()
        for candidate, outcomes in step.alternatives.items()
        if rate(outcomes) - rate(step.controls) > MARGIN
    }
    assert made.keys() == expected
    # The world must have offered both: gains that count, and successes that were mere luck.
    assert made
    assert any("success" in one for one in outcomes if rate(one) <= MARGIN) or len(made) < sum(
        "success" in one for one in outcomes
    )
    for row in made.values():
        step = steps[row["trajectory"], row["step"]]
        assert (row["successes"], row["rollouts"]) == (
            step.alternatives[row["candidate"]].count("success"),
            ROLLOUTS,
        )
        assert (row["control_successes"], row["controls"]) == (step.controls.count("success"), CONTROLS)
