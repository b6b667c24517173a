"""The meter of the event loop shows what a blocked loop did to everyone."""

from __future__ import annotations

import time

import anyio
import pytest

import runtime.lag
from runtime.lag import LagMeter


async def test_a_blocked_loop_shows_and_the_percentiles_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.lag, "_EVERY_S", 0.001)
    meter = LagMeter()
    assert meter.read() is None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(meter.run)
        while meter.read() is None:  # noqa: ASYNC110 - a meter has no event
            await anyio.sleep(0.001)
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is to be blocked
        await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    lag = meter.read()
    assert lag is not None
    assert lag.max_ms >= 190
    assert 0 <= lag.p50_ms <= lag.p99_ms <= lag.max_ms
