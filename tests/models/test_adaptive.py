"""Tests of adaptive concurrency through the whole endpoint, against a real server that refuses over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from statistics import mean

import anyio
import pytest
from aiohttp import web

from runtime.models.endpoint import Endpoint
from runtime.models.limiter import Limiting
from runtime.models.settings import EndpointSettings
from tests.models.server import GOOD, REQUEST, serve
from tests.models.simulated_server import seeded

# So long that a busy machine, which needs a few milliseconds for a call, serves a server's capacity at once.
SECONDS_PER_PLACE = 0.008


@dataclass(slots=True)
class Capacity:
    """A server that answers 429 above `most` calls in flight; a reply takes `seconds`, give or take a fifth."""

    most: int
    seconds: float
    serving: int = 0
    answered: int = 0
    refused: int = 0
    random: Random = field(default_factory=lambda: seeded(5))

    async def behave(self, request: web.Request) -> web.StreamResponse:
        if self.serving >= self.most:
            self.refused += 1
            return web.Response(status=429, text="too many")
        self.serving += 1
        try:
            await anyio.sleep(self.seconds * self.random.uniform(0.8, 1.2))
            self.answered += 1
            return await GOOD(request)
        finally:
            self.serving -= 1


async def drive(endpoint: Endpoint, capacity: Capacity, calls: int) -> list[int]:
    """Have many more callers than there is room for until so many calls are answered; the limits on the way."""
    limits: list[int] = []

    async def caller() -> None:
        while len(limits) < calls:
            await endpoint.complete(REQUEST, headers={})
            limits.append(endpoint.snapshot().limit)

    async with anyio.create_task_group() as group:
        for _ in range(2 * capacity.most):
            group.start_soon(caller)
    return limits


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param({8: 250, 4: 150, 12: 700}, id="8"),
        pytest.param({40: 1200, 20: 600, 60: 1800}, id="40", marks=pytest.mark.slow),
        pytest.param({200: 5000, 100: 2500, 300: 7500}, id="200", marks=pytest.mark.slow),
    ],
)
async def test_a_hidden_capacity_is_found_and_followed_with_few_calls_refused(stages: dict[int, int]) -> None:
    """Each capacity is to be found after the calls that stand beside it; a rise is noticed after 500 at most."""
    capacity = Capacity(most=next(iter(stages)), seconds=max(stages) * SECONDS_PER_PLACE)
    async with serve(capacity.behave) as server:
        settings = EndpointSettings(
            name="policy", base_url=server.url, backoff=0.01, backoff_max=0.05, attempts=50, deadline=60
        )
        async with Endpoint(settings) as endpoint:
            for most, calls in stages.items():
                capacity.most = most
                await drive(endpoint, capacity, calls)
                found = mean(await drive(endpoint, capacity, 5 * most))
                assert 0.9 * most <= found <= 1.1 * most
            snapshot = endpoint.snapshot()
    assert snapshot.refused == capacity.refused < 0.02 * capacity.answered
    assert (snapshot.in_flight, snapshot.waiting, snapshot.limiting) == (0, 0, Limiting.NONE)
