"""Tests of adaptive concurrency through the whole endpoint, against a real server that refuses over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import anyio
from aiohttp import web

from runtime.models.endpoint import Endpoint
from runtime.models.limiter import Limiting
from runtime.models.settings import EndpointSettings
from tests.models.server import GOOD, REQUEST, serve
from tests.models.simulated_server import seeded


@dataclass(slots=True)
class Capacity:
    """A server that answers 429 above `most` in flight and counts `wanted` answers at a time.

    `levels` is the sum, over the answers counted, of the calls that were being served with each.
    """

    most: int
    wanted: int = 0
    serving: int = 0
    answered: int = 0
    refused: int = 0
    levels: int = 0
    random: Random = field(default_factory=lambda: seeded(5))

    async def behave(self, request: web.Request) -> web.StreamResponse:
        if self.serving >= self.most:
            self.refused += 1
            return web.Response(status=429, text="too many")
        self.serving += 1
        try:
            await anyio.sleep(self.random.uniform(0.01, 0.03))
            if self.answered < self.wanted:
                self.answered += 1
                self.levels += self.serving
            return await GOOD(request)
        finally:
            self.serving -= 1


async def drive(endpoint: Endpoint, capacity: Capacity, calls: int) -> None:
    """Have many more callers than there is room for until so many calls are answered."""
    capacity.wanted, capacity.answered, capacity.levels = calls, 0, 0

    async def caller() -> None:
        while capacity.answered < calls:
            await endpoint.complete(REQUEST, headers={})

    async with anyio.create_task_group() as group:
        for _ in range(3 * capacity.most):
            group.start_soon(caller)


async def test_a_hidden_capacity_is_found_and_followed_with_few_calls_refused() -> None:
    capacity = Capacity(most=30)
    async with serve(capacity.behave) as server:
        settings = EndpointSettings(
            name="policy", base_url=server.url, backoff=0.01, backoff_max=0.05, attempts=50, deadline=60
        )
        async with Endpoint(settings) as endpoint:
            for most in (30, 15, 40):
                capacity.most = most
                await drive(endpoint, capacity, 1500)
                await drive(endpoint, capacity, 400)
                print("LV",most,capacity.levels/capacity.answered, endpoint.snapshot())
                assert capacity.levels / capacity.answered >= 0.9 * most
                assert endpoint.snapshot().limit >= 0.9 * most
            snapshot = endpoint.snapshot()
    print(snapshot)
    assert snapshot.refused == capacity.refused < 0.02 * snapshot.calls
    assert (snapshot.in_flight, snapshot.waiting, snapshot.limiting) == (0, 0, Limiting.NONE)
