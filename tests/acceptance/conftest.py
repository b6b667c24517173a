"""One run of a world with nothing out of the ordinary, which the tests of this folder look at from many sides."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from runtime.simulation.behaviour import Behaviour
from runtime.simulation.world import World
from tests.acceptance.running import Finished, finished_run
from tests.folders import reachable_folder

LIMITS: dict[str, object] = {
    "run.rollouts": 3,
    "resample.workers": 2,
    "models.prm.max_in_flight": 2,
    "models.expert.max_in_flight": 4,
}


@pytest.fixture(scope="package")
async def finished() -> AsyncIterator[Finished]:
    """A run under low limits, so that they are reached; the data directory and the server are still there."""
    with reachable_folder() as folder:
        behaviour = Behaviour(latency=0.006, jitter=0.004)
        async with finished_run(World.generate(7, 12), folder / "data", behaviour=behaviour, changes=LIMITS) as done:
            yield done
