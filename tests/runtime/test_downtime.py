"""Sleep, a clock that is set ahead, and trouble with the disk are no time in which a delivery failed."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from runtime import downtime as downtime_module
from runtime.bus import Bus, Retries
from runtime.downtime import Downtime
from runtime.errors import InfrastructureError
from runtime.handler import Result, nothing_more
from store import deliveries
from store.errors import StorageTroubleError
from store.events import DeliveryFailed, Event
from store.transaction import now_us
from tests.runtime.test_bus import Scripted, begin, drain, opened, submit

HOURS_7 = 7 * 3600


class Clock:
    """The machine's clock, which can be set ahead or back, as sleep sets it ahead of the loop's."""

    def __init__(self) -> None:
        self.seconds_ahead = 0

    def now_us(self) -> int:
        """Microseconds since 1970 by this clock."""
        return now_us() + self.seconds_ahead * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (downtime_module, deliveries):
        monkeypatch.setattr(module, "now_us", clock.now_us)
    return clock


def test_what_the_clock_is_set_ahead_by_is_no_time_for_what_began_before(clock: Clock) -> None:
    downtime = Downtime()
    before = downtime.now()
    assert downtime.since(before) == 0
    clock.seconds_ahead += HOURS_7
    after = downtime.now()
    assert downtime.since(before) == pytest.approx(HOURS_7, abs=0.1)
    assert downtime.since(after) == 0
    clock.seconds_ahead -= 1000
    assert downtime.now() < after
    assert downtime.since(before) == pytest.approx(HOURS_7, abs=0.1)


async def test_trouble_counts_from_the_first_that_is_told_of_to_the_end_of_all() -> None:
    downtime = Downtime()
    before = downtime.now()
    downtime.note_trouble(None)
    for trouble in ("full", "descriptors"):
        downtime.note_trouble(StorageTroubleError(trouble, "it is in trouble", "wait"))
        await anyio.sleep(0.05)
    downtime.note_trouble(None)
    assert 0.1 <= downtime.since(before) <= (now_us() - before) / 1e6
    assert downtime.since(downtime.now()) == 0


async def test_a_delivery_that_failed_before_the_machine_slept_is_tried_again(tmp_path: Path, clock: Clock) -> None:
    bus, seen = Bus(retries=Retries(attempts=9, delay=0.01, max_delay=0.02, max_time=60.0), capacity=4), list[Event]()
    bus.watch(seen.append)

    async def fail_three_times(_event: Event) -> Result:
        if len(handler.given) == 2:
            clock.seconds_ahead += HOURS_7
        if len(handler.given) <= 3:
            raise InfrastructureError("the endpoint is away")
        return nothing_more

    handler = Scripted(fail_three_times)
    async with opened(tmp_path, bus) as database:
        run = await begin(database)
        await database.write(lambda t: submit(t, run, 1))
        await drain(bus, database, handler)
    assert [event.dead for event in seen if isinstance(event, DeliveryFailed)] == [False] * 3
    assert len(handler.given) == 4
