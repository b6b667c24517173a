"""Tests of handing out slots: order, limits, pauses, cancellation."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from runtime.models.limiter import Limiter, Limiting, Permit, SentAwayError
from runtime.models.rates import RateGate
from runtime.models.window import FixedWindow
from tests.models.simulated_server import seeded


def limiter_of(limit: int, requests_per_minute: float | None = None) -> Limiter:
    return Limiter(
        window=FixedWindow(limit), rates=RateGate(requests_per_minute=requests_per_minute, tokens_per_minute=None)
    )


def far() -> float:
    return anyio.current_time() + 60


async def take(limiter: Limiter) -> Permit:
    permit = await limiter.acquire(deadline=far())
    assert permit is not None
    return permit


async def test_slots_are_handed_out_in_order_of_asking_with_retries_first() -> None:
    limiter = limiter_of(1)
    permit = await take(limiter)
    order: list[str] = []

    async def ask(name: str, *, again: bool = False) -> None:
        granted = await limiter.acquire(deadline=far(), again=again)
        assert granted is not None
        order.append(name)
        await anyio.lowlevel.checkpoint()
        granted.release()

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(ask, f"call {number}")
            await anyio.wait_all_tasks_blocked()
        group.start_soon(lambda: ask("retry", again=True))
        await anyio.wait_all_tasks_blocked()
        assert (limiter.waiting, limiter.limiting()) == (5, Limiting.MAX_IN_FLIGHT)
        permit.release()
    assert order == ["retry", "call 0", "call 1", "call 2", "call 3"]
    assert (limiter.in_flight, limiter.waiting, limiter.limiting()) == (0, 0, Limiting.NONE)


async def test_the_limit_is_never_passed_and_nothing_leaks_when_callers_are_cancelled_at_random() -> None:
    limiter = limiter_of(5)
    random = seeded(11)
    most = 0

    async def call(scope: anyio.CancelScope) -> None:
        nonlocal most
        with scope:
            permit = await take(limiter)
            try:
                most = max(most, limiter.in_flight)
                for _ in range(random.randrange(4)):
                    await anyio.lowlevel.checkpoint()
            finally:
                permit.release()

    async with anyio.create_task_group() as group:
        scopes = [anyio.CancelScope() for _ in range(300)]
        for scope in scopes:
            group.start_soon(call, scope)
        for scope in random.sample(scopes, 150):
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert most == 5
    assert (limiter.in_flight, limiter.waiting) == (0, 0)
    for _ in range(5):
        await take(limiter)
    assert await limiter.acquire(deadline=anyio.current_time() + 0.01) is None


async def test_a_slot_granted_to_a_caller_that_is_cancelled_at_that_moment_goes_to_the_next() -> None:
    limiter = limiter_of(1)
    first = await take(limiter)
    got: list[str] = []

    async def ask(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            permit = await take(limiter)
            got.append(name)
            permit.release()

    doomed = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(ask, "doomed", doomed)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(ask, "next", anyio.CancelScope())
        await anyio.wait_all_tasks_blocked()
        doomed.cancel()
        first.release()
    assert got == ["next"]
    assert limiter.in_flight == 0


async def test_a_permit_ends_once() -> None:
    limiter = limiter_of(2)
    permit = await take(limiter)
    permit.succeeded(1.0, 5)
    permit.refused()
    permit.release()
    assert limiter.in_flight == 0


async def test_waiting_ends_at_the_deadline_and_the_place_in_the_queue_is_gone() -> None:
    limiter = limiter_of(1)
    permit = await take(limiter)
    with anyio.fail_after(10):
        assert await limiter.acquire(deadline=anyio.current_time() + 0.05) is None
    assert limiter.waiting == 0
    permit.release()
    assert limiter.in_flight == 0
    (await take(limiter)).release()


async def test_a_pause_holds_calls_and_then_lets_them_go() -> None:
    limiter = limiter_of(4)
    limiter.pause(0.2)
    started = anyio.current_time()
    assert limiter.limiting() is Limiting.RETRY_AFTER
    with anyio.fail_after(10):
        await take(limiter)
    assert anyio.current_time() - started >= 0.19
    limiter.close()


async def test_a_pause_past_the_deadline_is_not_waited_for() -> None:
    limiter = limiter_of(4)
    limiter.pause(1000)
    assert await limiter.acquire(deadline=far()) is None


async def test_calls_that_are_sent_away_have_no_slot_and_those_who_come_after_them_do() -> None:
    limiter = limiter_of(1)
    permit = await take(limiter)
    sent_away = 0

    async def ask() -> None:
        nonlocal sent_away
        with pytest.raises(SentAwayError):
            await take(limiter)
        sent_away += 1

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            limiter.dismiss()
            permit.release()
            (await take(limiter)).release()
    assert (sent_away, limiter.waiting, limiter.in_flight) == (3, 0, 0)


async def test_a_rate_holds_calls_and_then_lets_them_go() -> None:
    limiter = limiter_of(4, requests_per_minute=600)
    granted = 0
    with anyio.fail_after(10):
        for _ in range(64):
            (await take(limiter)).release()
            granted += 1
    assert granted == 64
    async with anyio.create_task_group() as group:
        group.start_soon(take, limiter)
        await anyio.wait_all_tasks_blocked()
        assert limiter.limiting() is Limiting.RATE_LIMIT
    limiter.close()


@pytest.mark.parametrize("limit", [1, 7])
async def test_without_waiting_a_slot_is_there_at_once(limit: int) -> None:
    limiter = limiter_of(limit)
    permits = [await take(limiter) for _ in range(limit)]
    assert limiter.in_flight == limit
    for permit in permits:
        permit.release()
    assert limiter.in_flight == 0
