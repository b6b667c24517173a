"""Tests of a role with several replicas: who is asked, and what happens when one of them is ill."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from aiohttp import web

from runtime.models.errors import ContextOverflow, EndpointStopped, EndpointUnavailable, RequestRefused
from runtime.models.pool import Pool
from runtime.models.settings import EndpointSettings
from tests.models.server import (
    GOOD,
    KEY,
    REQUEST,
    Behaviour,
    ModelServer,
    answer,
    completion,
    failure,
    reset_before,
    serve,
    stall,
)

NOBODY = "http://127.0.0.1:9/v1"


def pool(*urls: str, **settings: Any) -> Pool:
    quick: dict[str, Any] = {
        "name": "policy",
        "api_key": KEY,
        "attempts": 3,
        "timeout": 5.0,
        "deadline": 20.0,
        "backoff": 0.001,
        "backoff_max": 0.01,
        "max_in_flight": 64,
    }
    return Pool([EndpointSettings(base_url=url, **{**quick, **settings}) for url in urls])


@asynccontextmanager
async def servers(*behaviours: Behaviour) -> AsyncIterator[list[ModelServer]]:
    """A server for each behaviour."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serve(behaviour)) for behaviour in behaviours]


def after(seconds: float) -> Behaviour:
    """Answer well, but slowly."""

    async def behave(request: web.Request) -> web.StreamResponse:
        await anyio.sleep(seconds)
        return await GOOD(request)

    return behave


async def together(*calls: Callable[[], Awaitable[object]]) -> None:
    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(call)  # type: ignore[arg-type]  # an awaitable is all that is needed


async def test_a_single_replica_is_asked_as_if_it_were_alone() -> None:
    async with serve() as server, pool(server.url) as policy:
        got = await policy.complete(REQUEST, headers={}, affinity="t")
    assert (got.content, got.endpoint) == ("hi", "policy")


async def test_calls_go_where_the_load_is_least() -> None:
    async with servers(*[after(0.2)] * 3) as three, pool(*(each.url for each in three)) as policy:
        await together(*[lambda: policy.complete(REQUEST, headers={}) for _ in range(30)])
    assert [len(each.requests) for each in three] == [10, 10, 10]


async def test_the_calls_of_a_trajectory_stay_with_the_replica_that_has_its_prefix() -> None:
    async with servers(GOOD, GOOD, GOOD) as three, pool(*(each.url for each in three)) as policy:

        async def trajectory(name: str) -> None:
            for step in range(6):
                headers = {"x-cso-trajectory": name, "x-cso-step": str(step)}
                await policy.complete(REQUEST, headers=headers, affinity=name)

        await together(*[lambda name=f"task-{number}": trajectory(name) for number in range(30)])
    homes = Counter(
        (headers["x-cso-trajectory"], number) for number, each in enumerate(three) for headers in each.headers
    )
    assert set(homes.values()) == {6}
    assert all(each.requests for each in three)


async def test_a_trajectory_moves_when_its_replica_is_full_and_another_is_not() -> None:
    async with servers(*[after(0.3)] * 2) as two, pool(*(each.url for each in two), max_in_flight=2) as policy:
        await together(*[lambda: policy.complete(REQUEST, headers={}, affinity="t") for _ in range(4)])
        snapshot = policy.snapshot()
    assert [len(each.requests) for each in two] == [2, 2]
    assert (snapshot.calls, snapshot.limit, snapshot.in_flight) == (4, 4, 0)


@pytest.mark.parametrize(
    "behaviour",
    [reset_before, failure(500), failure(429), answer(b"<html>", content_type="text/html"), stall],
    ids=["reset", "500", "429", "HTML", "stall"],
)
async def test_what_fails_at_one_replica_is_asked_of_another(behaviour: Behaviour) -> None:
    async with servers(behaviour, GOOD) as (ill, well), pool(ill.url, well.url, timeout=0.2) as policy:
        for number in range(6):
            got = await policy.complete(REQUEST, headers={}, affinity=f"t{number}")
            assert got.endpoint == f"policy ({well.url.split('/')[2]})"


async def test_a_dead_replica_is_taken_out_and_costs_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.models.pool._FIRST_ABSENCE", 60.0)
    async with serve() as server, pool(server.url, NOBODY, attempts=1) as policy:
        replies = [await policy.complete(REQUEST, headers={}, affinity=f"t{number}") for number in range(40)]
        _, dead = policy.replicas()
    assert sum(reply.attempts - 1 for reply in replies) <= 4
    assert dead.out_for > 0
    assert dead.address == "127.0.0.1:9"


async def test_a_replica_that_has_recovered_takes_part_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.models.pool._FIRST_ABSENCE", 0.05)
    is_ill = True

    async def moody(request: web.Request) -> web.StreamResponse:
        return await (failure(500) if is_ill else GOOD)(request)

    async with servers(moody, GOOD) as (ill, well), pool(ill.url, well.url) as policy:
        while policy.replicas()[0].out_for == 0:
            await policy.complete(REQUEST, headers={})
        is_ill = False
        asked = len(ill.requests)
        with anyio.fail_after(5):
            while len(ill.requests) < asked + 3:
                await policy.complete(REQUEST, headers={})
        assert policy.replicas()[0].out_for == 0


async def test_with_all_replicas_out_calls_are_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.models.pool._FIRST_ABSENCE", 60.0)
    async with servers(failure(500), failure(500)) as (one, other), pool(one.url, other.url) as policy:
        for _ in range(5):
            with pytest.raises(EndpointUnavailable) as caught:
                await policy.complete(REQUEST, headers={})
            assert caught.value.attempts == 4
        assert all(each.out_for > 0 for each in policy.replicas())
    assert len(one.requests) + len(other.requests) == 20


async def test_a_final_fault_is_asked_of_no_other_replica() -> None:
    async with servers(failure(404), failure(404)) as (one, other), pool(one.url, other.url) as policy:
        with pytest.raises(RequestRefused):
            await policy.complete(REQUEST, headers={})
    assert len(one.requests) + len(other.requests) == 1


async def test_a_replica_that_refuses_the_key_is_left_out_until_all_do() -> None:
    async with servers(failure(401), GOOD) as (locked, open_), pool(locked.url, open_.url) as policy:
        for number in range(6):
            await policy.complete(REQUEST, headers={}, affinity=str(number))
        assert not policy.snapshot().stopped
    assert len(locked.requests) == 1
    async with servers(failure(401), failure(401)) as two, pool(*(each.url for each in two)) as policy:
        for _ in range(3):
            with pytest.raises(EndpointStopped):
                await policy.complete(REQUEST, headers={})
        assert policy.snapshot().stopped
    assert [len(each.requests) for each in two] == [1, 1]


async def test_a_call_ends_by_its_deadline_whatever_the_replicas_do() -> None:
    async with servers(stall, stall) as two, pool(*(each.url for each in two), timeout=0.2, deadline=0.5) as policy:
        with anyio.fail_after(5), pytest.raises(EndpointUnavailable):
            await policy.complete(REQUEST, headers={})


async def test_a_paused_replica_is_passed_by() -> None:
    busy = failure(429, headers={"Retry-After": "30"})
    async with servers(busy, GOOD) as (paused, free), pool(paused.url, free.url) as policy:
        for number in range(8):
            await policy.complete(REQUEST, headers={}, affinity=str(number))
    assert (len(paused.requests), len(free.requests)) == (1, 8)


async def test_messages_that_are_too_long_are_sent_to_nobody() -> None:
    async with servers(GOOD, GOOD) as two, pool(*(each.url for each in two), max_input_tokens=5) as policy:
        with pytest.raises(ContextOverflow):
            await policy.complete(REQUEST, headers={})
    assert [each.requests for each in two] == [[], []]


async def test_faults_at_a_third_of_the_calls_of_all_replicas_lose_none() -> None:
    turn = 0

    def choose() -> Behaviour:
        nonlocal turn
        turn += 1
        return failure(500) if turn % 3 == 0 else answer(completion())

    async with AsyncExitStack() as stack:
        three = [await stack.enter_async_context(serve(choose=choose)) for _ in range(3)]
        policy = await stack.enter_async_context(pool(*(each.url for each in three), attempts=8))
        await together(*[lambda: policy.complete(REQUEST, headers={}) for _ in range(200)])
        assert policy.snapshot().in_flight == 0
