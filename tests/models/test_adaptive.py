"""Tests of adaptive concurrency through the whole endpoint, against a real server that refuses over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from statistics import mean

import anyio
from aiohttp import web

from runtime.models.endpoint import Endpoint
from runtime.models.limiter import Limiting
from runtime.models.settings import EndpointSettings
from tests.models.server import GOOD, REQUEST, serve
from tests.models.simulated_server import seeded


@dataclass(slots=True)
class Capacity:
    """A server that answers 429 above `most` calls in flight."""

    most: int
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
            await anyio.sleep(self.random.uniform(0.04, 0.06))
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
        for _ in range(3 * capacity.most):
            group.start_soon(caller)
    return limits


async def test_a_hidden_capacity_is_found_and_followed_with_few_calls_refused() -> None:
    capacity = Capacity(most=20)
    async with serve(capacity.behave) as server:
        settings = EndpointSettings(
            name="policy", base_url=server.url, backoff=0.01, backoff_max=0.05, attempts=50, deadline=60
        )
        async with Endpoint(settings) as endpoint:
            for most in (20, 10, 24):
                capacity.most = most
                await drive(endpoint, capacity, 700)
                found = mean(await drive(endpoint, capacity, 150))
                assert 0.9 * most <= found <= 1.1 * most
            snapshot = endpoint.snapshot()
    assert snapshot.refused == capacity.refused < 0.02 * capacity.answered
    assert (snapshot.in_flight, snapshot.waiting, snapshot.limiting) == (0, 0, Limiting.NONE)
