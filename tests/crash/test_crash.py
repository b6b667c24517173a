"""A few of the harness's endings, for every test run; `make crash-test` goes on for hundreds."""

from __future__ import annotations

import signal

import pytest

from tests.acceptance.facts import Facts
from tests.crash.harness import disturbed, undisturbed

WORLD, TASKS = 7, 6


@pytest.fixture(scope="module")
async def left_alone() -> Facts:
    """What the same work comes to when nobody disturbs it."""
    return await undisturbed(world=WORLD, tasks=TASKS)


async def test_work_killed_again_and_again_ends_as_if_it_had_been_left_alone(left_alone: Facts) -> None:
    report = await disturbed(seed=1, world=WORLD, tasks=TASKS, number=signal.SIGKILL, endings=6, expected=left_alone)
    assert report.problems == []
    assert report.endings == 6
    # A harness that never caught a call in flight would prove little.
    assert len(report.stages) > 1


async def test_work_stopped_again_and_again_repeats_nothing_at_all(left_alone: Facts) -> None:
    report = await disturbed(seed=2, world=WORLD, tasks=TASKS, number=signal.SIGTERM, endings=4, expected=left_alone)
    assert report.problems == []
    assert report.endings == 4
    assert report.repeated == 0
