"""Tests of a role with several replicas: who is asked, and what happens when one of them is ill.

Ports are random, and with them which replica a call without a home comes to first; so tests find out where a home is
instead of assuming it. Everything happens within one deadline, since a call that goes astray may wait for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from runtime.models.chat import ChatReply, ChatRequest
from runtime.models.errors import (
    ContextOverflow,
    EndpointPaused,
    EndpointStopped,
    EndpointUnavailable,
    ModelError,
    RequestRefused,
)
from runtime.models.pool import Pool, ReplicaSnapshot
from runtime.models.settings import EndpointSettings
from store.messages import Message
from tests.models.server import (
    GOOD,
    KEY,
    REQUEST,
    Behaviour,
    ModelServer,
    answer,
    failure,
    reset_before,
    serve,
    stall,
)
from tests.models.simulated_server import seeded

DEADLINE_S = 30
LONG = ChatRequest(model="m", messages=(Message("user", "word " * 4000),))


@dataclass(slots=True)
class Held:
    """Behaves in some way, but only once it is let go."""

    then: Behaviour = GOOD
    gate: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        await self.gate.wait()
        return await self.then(request)


@dataclass(slots=True)
class Turns:
    """Behaves by a list, and well once that is used up."""

    behaviours: list[Behaviour]

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        behaviour = self.behaviours.pop(0) if self.behaviours else GOOD
        return await behaviour(request)


@dataclass(slots=True)
class Replica:
    """A replica whose server behaves as is set at the time."""

    number: int
    server: ModelServer
    behaviour: Behaviour

    @property
    def asked(self) -> int:
        """How many requests came."""
        return len(self.server.requests)


@asynccontextmanager
async def replica(number: int, behaviour: Behaviour) -> AsyncIterator[Replica]:
    """Serve one."""

    async def behave(request: web.Request) -> web.StreamResponse:
        return await made.behaviour(request)

    async with serve(behave) as server:
        made = Replica(number, server, behaviour)
        yield made


class Bench:
    """A pool and its replicas."""

    def __init__(self, policy: Pool, replicas: list[Replica]) -> None:
        self.policy = policy
        self.replicas = replicas

    async def ask(self, affinity: str = "", request: ChatRequest = REQUEST) -> ChatReply:
        """Make a call."""
        return await self.policy.complete(request, headers={"x-cso-task": affinity}, affinity=affinity)

    async def home_at(self, replica: Replica) -> str:
        """An affinity whose home is at a replica; all must be well and idle."""
        for number in range(64):
            before = replica.asked
            await self.ask(f"settler {number}")
            if replica.asked > before:
                return f"settler {number}"
        raise AssertionError("the replica is never asked")

    async def until_busy(self, *numbers: int) -> None:
        """Wait until so many requests are being served by each replica."""
        # Servers and pool share the loop, but no event of one is an event of the other.
        while tuple(each.server.busy for each in self.replicas) != numbers:  # noqa: ASYNC110
            await anyio.sleep(0.001)

    async def until_waiting(self, replica: Replica, calls: int) -> None:
        """Wait until so many calls wait for a slot of a replica."""
        while self.look(replica).endpoint.waiting != calls:  # noqa: ASYNC110
            await anyio.sleep(0.001)

    def look(self, replica: Replica) -> ReplicaSnapshot:
        """What the pool thinks of a replica."""
        return self.policy.replicas()[replica.number]

    async def put_out(self, replica: Replica) -> None:
        """Have a replica fail until it is taken out."""
        home = await self.home_at(replica)
        replica.behaviour = failure(500)
        for _ in range(3):
            await self.ask(home)


@asynccontextmanager
async def bench(*behaviours: Behaviour, **settings: Any) -> AsyncIterator[Bench]:
    """A replica for each behaviour. A wait between attempts is longer than a call may take, so that none passes."""
    chosen: dict[str, Any] = {
        "name": "policy",
        "api_key": KEY,
        "attempts": 3,
        "timeout": 10.0,
        "deadline": 20.0,
        "backoff": 1e9,
        "backoff_max": 1e9,
        "max_in_flight": 64,
        **settings,
    }
    with anyio.fail_after(DEADLINE_S):
        async with AsyncExitStack() as stack:
            replicas = [await stack.enter_async_context(replica(*each)) for each in enumerate(behaviours)]
            urls = [each.server.url for each in replicas]
            policy = Pool([EndpointSettings(base_url=url, **chosen) for url in urls])
            yield Bench(await stack.enter_async_context(policy), replicas)


async def together(*calls: Callable[[], Awaitable[object]]) -> None:
    async def make(call: Callable[[], Awaitable[object]]) -> None:
        await call()

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(make, call)


@pytest.fixture
def long_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is out stays out for as long as a test lasts."""
    monkeypatch.setattr("runtime.models.pool._FIRST_ABSENCE", 1000.0)
    monkeypatch.setattr("runtime.models.pool._LONGEST_ABSENCE", 1000.0)


@pytest.fixture
def no_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is out may be tried again at once."""
    monkeypatch.setattr("runtime.models.pool._FIRST_ABSENCE", 0.0)


async def test_a_single_replica_is_asked_as_if_it_were_alone() -> None:
    async with bench(GOOD) as one:
        got = await one.ask("t")
    assert (got.content, got.endpoint) == ("hi", "policy")


async def test_calls_go_where_the_load_is_least() -> None:
    held = Held()
    async with bench(held, held, held) as three, anyio.create_task_group() as tasks:
        for _ in range(9):
            tasks.start_soon(three.ask)
        await three.until_busy(3, 3, 3)
        held.gate.set()


async def test_the_calls_of_a_trajectory_stay_with_the_replica_that_has_its_prefix() -> None:
    async with bench(GOOD, GOOD, GOOD) as three:

        async def trajectory(name: str) -> None:
            for _ in range(6):
                await three.ask(name)

        await together(*[lambda name=f"task {number}": trajectory(name) for number in range(30)])
        homes = Counter(
            (headers["x-cso-task"], each.number) for each in three.replicas for headers in each.server.headers
        )
        assert set(homes.values()) == {6}
        assert all(each.asked for each in three.replicas)


async def test_a_trajectory_moves_when_its_replica_is_full_and_another_is_not() -> None:
    async with bench(GOOD, GOOD, max_in_flight=4) as two, anyio.create_task_group() as tasks:
        full, other = two.replicas
        home = await two.home_at(full)
        held = full.behaviour = other.behaviour = Held()
        for _ in range(7):
            tasks.start_soon(two.ask, home)
        await two.until_busy(4, 3)
        snapshot = two.policy.snapshot()
        assert (snapshot.limit, snapshot.in_flight, snapshot.waiting) == (8, 7, 0)
        held.gate.set()


async def test_a_trajectory_waits_for_its_replica_when_another_has_little_more_room() -> None:
    async with bench(GOOD, GOOD, max_in_flight=4) as two, anyio.create_task_group() as tasks:
        full, other = two.replicas
        home, elsewhere = await two.home_at(full), await two.home_at(other)
        held = full.behaviour = other.behaviour = Held()
        for affinity in [home] * 4 + [elsewhere] * 3:
            tasks.start_soon(two.ask, affinity)
        await two.until_busy(4, 3)
        tasks.start_soon(two.ask, home)
        await two.until_waiting(full, 1)
        held.gate.set()


async def test_a_final_fault_is_asked_of_no_other_replica() -> None:
    async with bench(failure(422), failure(422)) as two:
        with pytest.raises(RequestRefused):
            await two.ask()
        assert sum(each.asked for each in two.replicas) == 1


FAULTS: dict[str, Behaviour] = {
    "reset": reset_before,
    "500": failure(500),
    "429": failure(429),
    "429 for longer than a call may take": failure(429, headers={"Retry-After": "600"}),
    "HTML": answer(b"<html>", content_type="text/html"),
    "stall": stall,
    "401": failure(401),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_what_fails_at_one_replica_is_asked_of_another_without_waiting(fault: Behaviour) -> None:
    async with bench(GOOD, GOOD, timeout=1.0) as two:
        ill, well = two.replicas
        home = await two.home_at(ill)
        ill.behaviour = fault
        before = ill.asked
        got = await two.ask(home)
        assert (got.attempts, got.endpoint) == (2, f"policy ({two.look(well).address})")
        assert ill.asked == before + 1


@pytest.mark.usefixtures("long_absence")
async def test_a_replica_that_fails_several_times_in_a_row_is_taken_out() -> None:
    async with bench(GOOD, GOOD) as two:
        ill = two.replicas[0]
        home = await two.home_at(ill)
        ill.behaviour = reset_before
        before = ill.asked
        for number in range(40):
            await two.ask(home if number % 2 else f"newcomer {number}")
        assert ill.asked == before + 3
        assert two.look(ill).out_for > 0


@pytest.mark.usefixtures("long_absence")
async def test_a_replica_where_nobody_listens_costs_three_attempts() -> None:
    async with serve() as gone:
        url = gone.url
    with anyio.fail_after(DEADLINE_S):
        async with serve() as server:
            settings = [
                EndpointSettings(name="policy", base_url=each, backoff=1e9, backoff_max=1e9)
                for each in (url, server.url)
            ]
            async with Pool(settings) as policy:
                replies = [await policy.complete(REQUEST, headers={}, affinity=f"t{number}") for number in range(40)]
                dead, _ = policy.replicas()
    assert sum(reply.attempts - 1 for reply in replies) == 3
    assert dead.out_for > 0
    assert dead.address == url.split("/")[2]


@pytest.mark.usefixtures("long_absence")
async def test_failures_with_successes_between_them_take_no_replica_out() -> None:
    async with bench(GOOD, GOOD) as two:
        moody = two.replicas[0]
        home = await two.home_at(moody)
        for _ in range(5):
            for behaviour in (failure(500), failure(500), GOOD):
                moody.behaviour = behaviour
                await two.ask(home)
        assert two.look(moody).out_for == 0


@pytest.mark.usefixtures("long_absence")
@pytest.mark.parametrize("status", [429, 503])
async def test_a_replica_that_sheds_load_takes_part_all_the_same(status: int) -> None:
    async with bench(GOOD, GOOD) as two:
        busy = two.replicas[0]
        home = await two.home_at(busy)
        busy.behaviour = failure(status)
        before = busy.asked
        for _ in range(10):
            await two.ask(home)
        assert busy.asked == before + 10
        assert two.look(busy).out_for == 0


@pytest.mark.usefixtures("no_absence")
async def test_a_replica_that_was_out_is_tried_with_a_single_call_and_takes_part_again() -> None:
    async with bench(GOOD, GOOD) as two, anyio.create_task_group() as tasks:
        ill = two.replicas[0]
        home = await two.home_at(ill)
        await two.put_out(ill)
        ill.behaviour = held = Held()
        asked = ill.asked
        tasks.start_soon(two.ask)
        await two.until_busy(1, 0)
        await together(*[lambda: two.ask(home) for _ in range(20)])
        assert ill.asked == asked + 1
        held.gate.set()
        await two.until_busy(0, 0)
        assert two.look(ill).out_for == 0
        await two.home_at(ill)


async def test_a_replica_that_fails_when_it_is_tried_is_left_alone_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.models.pool._FIRST_ABSENCE", 0.0)
    async with bench(GOOD, GOOD) as two:
        ill = two.replicas[0]
        await two.put_out(ill)
        asked = ill.asked
        monkeypatch.setattr("runtime.models.pool._FIRST_ABSENCE", 20.0)
        for _ in range(10):
            await two.ask()
        assert ill.asked == asked + 1
        assert 20 < two.look(ill).out_for <= 40


@pytest.mark.usefixtures("no_absence")
async def test_a_call_that_is_not_made_after_all_leaves_a_replica_to_be_tried_by_the_next() -> None:
    async with bench(GOOD, GOOD, max_input_tokens=2000) as two:
        ill = two.replicas[0]
        await two.put_out(ill)
        ill.behaviour = GOOD
        asked = ill.asked
        with pytest.raises(ContextOverflow):
            await two.ask(request=LONG)
        assert ill.asked == asked
        await two.ask()
        assert ill.asked == asked + 1


@pytest.mark.usefixtures("long_absence")
async def test_with_all_replicas_out_they_are_asked_all_the_same() -> None:
    async with bench(failure(500), failure(500), backoff=0.001, backoff_max=0.01) as two:
        for _ in range(5):
            with pytest.raises(EndpointUnavailable) as caught:
                await two.ask()
            assert caught.value.attempts == 4
        assert all(two.look(each).out_for > 0 for each in two.replicas)
        assert sum(each.asked for each in two.replicas) == 20
        two.replicas[1].behaviour = GOOD
        assert (await two.ask()).content == "hi"
        assert two.look(two.replicas[1]).out_for == 0


@pytest.mark.usefixtures("long_absence")
async def test_calls_that_wait_for_a_replica_leave_it_when_it_is_taken_out() -> None:
    async with bench(GOOD, GOOD, max_in_flight=1) as two, anyio.create_task_group() as tasks:
        ill, well = two.replicas
        home, elsewhere = await two.home_at(ill), await two.home_at(well)
        failing, working = Held(failure(500)), Held()
        ill.behaviour, well.behaviour = failing, working
        asked = ill.asked
        tasks.start_soon(two.ask, home)
        tasks.start_soon(two.ask, elsewhere)
        await two.until_busy(1, 1)
        for _ in range(9):
            tasks.start_soon(two.ask, home)
        await two.until_waiting(ill, 9)
        failing.gate.set()
        await two.until_waiting(well, 10)
        assert ill.asked <= asked + 3 + 1  # the third to fail has made room for one more
        working.gate.set()


async def test_calls_that_wait_for_a_replica_leave_it_when_it_asks_to_be_left_alone() -> None:
    async with bench(GOOD, GOOD, max_in_flight=1) as two, anyio.create_task_group() as tasks:
        busy, free = two.replicas
        home, elsewhere = await two.home_at(busy), await two.home_at(free)
        refusing, working = Held(failure(429, headers={"Retry-After": "600"})), Held()
        busy.behaviour, free.behaviour = refusing, working
        asked = busy.asked
        tasks.start_soon(two.ask, home)
        tasks.start_soon(two.ask, elsewhere)
        await two.until_busy(1, 1)
        for _ in range(4):
            tasks.start_soon(two.ask, home)
        await two.until_waiting(busy, 4)
        refusing.gate.set()
        await two.until_waiting(free, 5)
        assert busy.asked == asked + 1
        working.gate.set()


async def test_a_replica_that_refuses_the_key_is_left_out_and_the_others_are_asked() -> None:
    async with bench(GOOD, GOOD) as two:
        locked = two.replicas[0]
        home = await two.home_at(locked)
        locked.behaviour = failure(401)
        asked = locked.asked
        for _ in range(6):
            await two.ask(home)
        assert locked.asked == asked + 1
        assert not two.policy.snapshot().stopped
        assert two.look(locked).endpoint.stopped


async def test_a_call_for_which_the_only_other_replica_has_no_time_has_not_been_stopped() -> None:
    gate, ends = anyio.Event(), dict[str, type[ModelError]]()

    async def locked_later(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await failure(401)(request)

    async with bench(GOOD, GOOD, deadline=20.0) as two:
        locked, resting = two.replicas
        homes = [await two.home_at(each) for each in two.replicas]
        locked.behaviour, resting.behaviour = locked_later, failure(429, headers={"Retry-After": "19.9"})

        async def ask(home: str) -> None:
            with pytest.raises(ModelError) as caught:
                await two.ask(home)
            ends[home] = type(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, homes[0])
            await two.until_busy(1, 0)
            await anyio.sleep(0.3)  # so that the rest is longer than what is left to that call
            tasks.start_soon(ask, homes[1])
            await two.until_busy(2, 0)
            gate.set()
        assert ends == dict.fromkeys(homes, EndpointUnavailable)


async def test_a_replica_without_room_is_not_gone_because_another_one_is() -> None:
    each: dict[str, Any] = {
        "name": "policy",
        "attempts": 99,
        "backoff": 0.01,
        "backoff_max": 0.01,
        "max_in_flight": 1,
    }
    async with AsyncExitStack() as while_it_lasts, serve(GOOD) as full:
        gone = await while_it_lasts.enter_async_context(serve(GOOD))
        settings = [EndpointSettings(base_url=at.url, timeout=0.5, deadline=0.5, **each) for at in (gone, full)]
        async with Pool(settings) as pool:
            for replica in pool._replicas:
                await replica.endpoint.complete(REQUEST, headers={})
            await while_it_lasts.aclose()
            _, at_full = (replica.endpoint for replica in pool._replicas)
            permit = await at_full._limiter.acquire(deadline=anyio.current_time() + DEADLINE_S)
            for _ in range(2):  # the first time, a connection that was kept alive is found closed
                with anyio.fail_after(DEADLINE_S), pytest.raises(ModelError):
                    await pool.complete(REQUEST, headers={})
            assert not at_full.is_stopped
            assert permit is not None
            permit.release()


async def test_when_all_replicas_refuse_the_key_the_role_is_stopped_until_it_is_to_be_asked_again() -> None:
    async with bench(failure(401), failure(401)) as two:
        for _ in range(3):
            with pytest.raises(EndpointStopped):
                await two.ask()
        assert two.policy.snapshot().stopped
        assert [each.asked for each in two.replicas] == [1, 1]
        for each in two.replicas:
            each.behaviour = GOOD
        two.policy.ask_again()
        assert (await two.ask()).content == "hi"
        assert not two.policy.snapshot().stopped


async def test_a_replica_whose_key_is_taken_again_is_found_by_a_single_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.models.stop._FIRST_PAUSE", 0.0)
    async with bench(GOOD, GOOD) as two, anyio.create_task_group() as tasks:
        locked = two.replicas[0]
        home = await two.home_at(locked)
        locked.behaviour = failure(401)
        await two.ask(home)
        locked.behaviour = held = Held()
        asked = locked.asked
        tasks.start_soon(two.ask, home)
        await two.until_busy(1, 0)
        await together(*[lambda: two.ask(home) for _ in range(20)])
        assert locked.asked == asked + 1
        held.gate.set()
        await two.until_busy(0, 0)
    assert not two.look(locked).endpoint.stopped


async def test_a_call_ends_by_its_deadline_whatever_the_replicas_do() -> None:
    async with bench(stall, stall, timeout=0.2, deadline=0.5, attempts=100) as two:
        with pytest.raises(EndpointUnavailable):
            await two.ask()
        snapshot = two.policy.snapshot()
    assert (snapshot.in_flight, snapshot.waiting) == (0, 0)


async def test_a_replica_that_is_to_be_left_alone_for_too_long_does_not_fail_a_call() -> None:
    async with bench(GOOD, GOOD, backoff=0.001, backoff_max=0.01) as two:
        paused, moody = two.replicas
        home = await two.home_at(moody)
        paused_home = await two.home_at(paused)
        paused.behaviour = failure(429, headers={"Retry-After": "600"})
        await two.ask(paused_home)
        moody.behaviour = Turns([failure(500), failure(500)])
        got = await two.ask(home)
        assert (got.content, got.attempts) == ("hi", 3)


async def test_a_replica_with_a_pause_of_hours_is_left_out_and_the_role_stops_only_with_the_last() -> None:
    daily = failure(429, headers={"Retry-After": "7200"})
    async with bench(GOOD, GOOD, backoff=0.001, backoff_max=0.01) as two:
        paused, moody = two.replicas
        home = await two.home_at(paused)
        moody.behaviour, paused.behaviour = Turns([failure(500), failure(500)]), daily
        asked = paused.asked
        got = await two.ask(home)
        assert (got.content, got.attempts) == ("hi", 4)
        assert (paused.asked, two.look(paused).endpoint.stopped) == (asked + 1, True)
        snapshot = two.policy.snapshot()
        assert (snapshot.stopped, snapshot.reason, snapshot.until) == (False, None, None)
        moody.behaviour = daily
        for _ in range(2):
            with pytest.raises(EndpointPaused):
                await two.ask(home)
        snapshot = two.policy.snapshot()
        assert snapshot.stopped
        assert "wants to be left alone" in (snapshot.reason or "")
        assert paused.asked == asked + 1


async def test_messages_that_are_too_long_are_sent_to_nobody() -> None:
    async with bench(GOOD, GOOD, max_input_tokens=5) as two:
        with pytest.raises(ContextOverflow):
            await two.ask()
        assert [each.asked for each in two.replicas] == [0, 0]


async def test_faults_at_a_third_of_the_calls_of_all_replicas_lose_none() -> None:
    faults = [failure(500), reset_before, answer(b"{"), *[GOOD] * 6]
    servers = [Turns(faults * 40) for _ in range(3)]
    async with bench(*servers, attempts=12, backoff=0.001, backoff_max=0.01) as three:
        await together(*[lambda: three.ask() for _ in range(200)])
        snapshot = three.policy.snapshot()
    assert (snapshot.calls, snapshot.in_flight, snapshot.waiting) == (200, 0, 0)


async def test_cancelling_calls_anywhere_leaves_all_replicas_balanced() -> None:
    random = seeded(3)
    behaviours: list[Behaviour] = [GOOD, stall, failure(500), reset_before]

    async def any_of_them(request: web.Request) -> web.StreamResponse:
        return await random.choice(behaviours)(request)

    async with bench(
        any_of_them, any_of_them, attempts=50, timeout=0.2, max_in_flight=4, backoff=0.001, backoff_max=0.01
    ) as two:

        async def call(scope: anyio.CancelScope) -> None:
            with scope:
                await two.ask()

        async with anyio.create_task_group() as tasks:
            scopes = [anyio.CancelScope() for _ in range(40)]
            for scope in scopes:
                tasks.start_soon(call, scope)
            random.shuffle(scopes)
            for scope in scopes:
                for _ in range(random.randrange(20)):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        snapshot = two.policy.snapshot()
        assert (snapshot.in_flight, snapshot.waiting) == (0, 0)
        behaviours[:] = [GOOD]
        await together(*[lambda: two.ask() for _ in range(8)])
