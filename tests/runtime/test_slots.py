"""Slots: never more than the limit, later stages first, and nothing leaks."""

from __future__ import annotations

import anyio

from runtime.slots import Slots


async def test_no_more_run_than_there_are_places() -> None:
    slots, most = Slots(3), 0

    async def work() -> None:
        nonlocal most
        async with slots.hold(0):
            most = max(most, slots.in_use)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(work)
    assert most == 3
    assert slots.in_use == 0


async def test_a_higher_rank_goes_first_and_within_a_rank_the_first_come() -> None:
    slots, order = Slots(1), list[str]()

    async def work(name: str, rank: int) -> None:
        async with slots.hold(rank):
            order.append(name)

    async with anyio.create_task_group() as tasks, slots.hold(0):
        for name, rank in (("collect 1", 0), ("collect 2", 0), ("verify 1", 1), ("verify 2", 1)):
            tasks.start_soon(work, name, rank)
        await anyio.wait_all_tasks_blocked()
    assert order == ["verify 1", "verify 2", "collect 1", "collect 2"]


async def test_whoever_is_cancelled_while_waiting_or_served_leaves_no_place_taken() -> None:
    slots = Slots(1)

    async def work() -> None:
        async with slots.hold(0):
            await anyio.sleep_forever()

    async with slots.hold(0), anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        assert slots.in_use == 1
        tasks.cancel_scope.cancel()
    assert slots.in_use == 0
