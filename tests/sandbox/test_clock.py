"""The clock counts the code's own time only."""

from __future__ import annotations

import anyio

from runtime.sandbox.clock import CodeClock


async def test_a_stopped_clock_neither_counts_nor_rings() -> None:
    rung = anyio.Event()
    clock = CodeClock(0.05, rung.set)
    clock.start()
    clock.stop()
    used = clock.seconds
    await anyio.sleep(0.1)
    assert (clock.seconds, clock.expired, rung.is_set()) == (used, False, False)


async def test_time_that_is_charged_counts_though_the_clock_stood() -> None:
    rung = anyio.Event()
    clock = CodeClock(60.0, rung.set)
    clock.charge(59.99)
    clock.start()
    with anyio.fail_after(5):
        await rung.wait()
    assert clock.seconds >= 60


async def test_a_clock_rings_once_its_time_is_used_up() -> None:
    rung = anyio.Event()
    clock = CodeClock(0.05, rung.set)
    for _ in range(2):
        clock.start()
        await anyio.sleep(0.02)
        clock.stop()
    clock.start()
    with anyio.fail_after(5):
        await rung.wait()
    assert clock.expired
    assert clock.seconds >= 0.05
    clock.start()
    seconds = clock.seconds
    await anyio.sleep(0.01)
    assert clock.seconds == seconds
