"""Short calls: in order, off the loop, and each caller hears of its own."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import anyio
import pytest

from runtime.shortcalls import ShortCalls

pytestmark = pytest.mark.anyio


async def test_each_caller_hears_whether_its_own_call_succeeded(tmp_path: Path) -> None:
    calls = ShortCalls()
    heard: dict[int, bool] = {}
    for number in range(0, 100, 3):
        (tmp_path / str(number)).mkdir()

    async def make(number: int) -> None:
        heard[number] = await calls.succeeds((tmp_path / str(number)).mkdir)

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(make, number)

    assert heard == {number: number % 3 != 0 for number in range(100)}


async def test_calls_are_made_in_order_while_the_loop_goes_on() -> None:
    calls = ShortCalls()
    let_go = threading.Event()
    made: list[int] = []

    def wait() -> None:
        assert let_go.wait(10)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(calls.succeeds, wait)
        for number in range(40):
            tasks.start_soon(calls.succeeds, partial(made.append, number))
        await anyio.wait_all_tasks_blocked()
        assert made == []
        let_go.set()

    assert made == list(range(40))


async def test_a_caller_that_is_cancelled_does_not_take_its_call_back() -> None:
    calls = ShortCalls()
    let_go = threading.Event()
    made: list[str] = []

    def wait() -> None:
        assert let_go.wait(10)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(calls.succeeds, wait)
        with anyio.move_on_after(0.01):
            await calls.succeeds(partial(made.append, "cancelled"))
        let_go.set()
        assert await calls.succeeds(partial(made.append, "after"))

    assert made == ["cancelled", "after"]
