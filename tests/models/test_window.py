"""Tests of the adaptive window against servers in simulated time."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from runtime.models.window import AdaptiveWindow, FixedWindow
from tests.models.simulated_server import SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Callable

LATENCIES: dict[str, Callable[[Random, int], float]] = {
    "all the same": lambda _random, _working: 1.0,
    "even": lambda random, _working: random.uniform(0.5, 1.5),
    "exponential": lambda random, _working: 0.2 + random.expovariate(1.2),
    "heavy-tailed": lambda random, _working: random.lognormvariate(0.0, 0.8),
    "growing with load": lambda random, working: (1 + working / 64) * random.uniform(0.5, 1.5),
}


def server_of(latency: Callable[[Random, int], float], seed: int = 1, ceiling: int = 512) -> SimulatedServer:
    return SimulatedServer(AdaptiveWindow(ceiling=ceiling), seed=seed, latency=latency)


@pytest.mark.parametrize("latency", LATENCIES.values(), ids=LATENCIES.keys())
@pytest.mark.parametrize("capacity", [1, 3, 8, 20, 50, 100, 200])
def test_a_hidden_capacity_is_found_and_held_with_few_refusals(
    capacity: int, latency: Callable[[Random, int], float]
) -> None:
    server = server_of(latency)
    finding = server.run(4000, capacity=capacity)
    holding = server.run(2000, capacity=capacity)
    assert finding.refused_share < 0.02
    assert holding.refused_share < 0.01
    assert holding.busy >= 0.9 * capacity
    assert holding.limits[-1] >= 0.9 * capacity


@pytest.mark.parametrize("latency", [LATENCIES["even"], LATENCIES["exponential"], LATENCIES["heavy-tailed"]])
@pytest.mark.parametrize("capacity", [5, 8, 20, 40, 60, 200])
def test_a_capacity_that_changes_is_followed_down_and_up(
    capacity: int, latency: Callable[[Random, int], float]
) -> None:
    server = server_of(latency)
    for present in (capacity, capacity // 2, 2 * capacity, capacity):
        following = server.run(3000, capacity=present)
        holding = server.run(1000, capacity=present)
        assert following.refused_share < 0.02
        assert holding.refused_share < 0.02
        assert holding.busy >= 0.9 * present


def test_a_fall_that_hits_all_calls_at_once_costs_what_was_too_many_and_little_more() -> None:
    server = server_of(LATENCIES["all the same"])
    server.run(4500, capacity=400)
    tally = server.run(1000, capacity=150)
    assert 400 - 150 >= tally.refused >= 200
    holding = server.run(2000, capacity=150)
    assert holding.refused_share < 0.01
    assert holding.busy >= 0.9 * 150


def test_a_server_that_refuses_everything_for_a_moment_has_not_lost_its_capacity() -> None:
    server = server_of(LATENCIES["even"])
    server.run(4000, capacity=100)
    window = server.window
    serials = [window.sent(number) for number in range(1, 101)]
    for number, serial in enumerate(serials):
        window.refused(serial, 100 - number)
    assert window.limit >= 24


@pytest.mark.parametrize("served", [4, 20, 100])
def test_a_server_that_only_queues_is_not_flooded(served: int) -> None:
    server = server_of(lambda random, working: max(1.0, working / served) * random.uniform(0.9, 1.1))
    server.run(10_000, capacity=10**6)
    tally = server.run(10_000, capacity=10**6)
    assert served <= tally.busy <= 5 * served


def test_calls_that_become_slower_for_another_reason_do_not_starve_the_window() -> None:
    pace = 1.0
    server = server_of(lambda random, _working: pace * random.uniform(0.5, 1.5))
    server.run(4000, capacity=50)
    pace = 5.0
    server.run(4000, capacity=50)
    assert server.run(2000, capacity=50).busy >= 45


def test_an_unused_window_does_not_grow() -> None:
    server = server_of(LATENCIES["even"])
    tally = server.run(2000, capacity=50, callers=5)
    assert max(tally.limits) == 8
    assert tally.refused == 0


def test_the_ceiling_is_the_most() -> None:
    server = server_of(LATENCIES["even"], ceiling=20)
    assert max(server.run(3000, capacity=1000).limits) == 20


def test_a_server_that_was_down_is_taken_up_again() -> None:
    server = server_of(LATENCIES["even"])
    server.run(4000, capacity=50)
    window = server.window
    for _ in range(200):
        window.refused(window.sent(1), 1)
    assert window.limit == 1
    assert server.run(2000, capacity=50).limits[-1] >= 45


def test_a_fixed_window_stays_as_it_is() -> None:
    window = FixedWindow(7)
    serial = window.sent(1)
    window.refused(serial, 1)
    window.succeeded(serial, 1.0, 1)
    assert window.limit == 7
