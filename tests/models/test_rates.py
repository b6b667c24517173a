"""Tests of requests and tokens per minute, on a clock of their own."""

from __future__ import annotations

import pytest

from runtime.models.rates import RateGate


def test_no_minute_has_many_more_requests_than_allowed() -> None:
    gate = RateGate(requests_per_minute=120, tokens_per_minute=None)
    assert 120 <= requests_in_a_minute(gate, 1000.0) <= 133


def test_tokens_are_taken_on_an_estimate_and_settled_by_use() -> None:
    gate = RateGate(requests_per_minute=None, tokens_per_minute=6000)
    assert gate.delay(0.0, 600) == 0
    gate.take(600)
    assert gate.delay(0.0, 100) == pytest.approx(1.0)
    gate.settle(600, 200)
    assert gate.delay(0.0, 100) == 0
    gate.settle(200, 1000)
    assert gate.delay(0.0, 100) == pytest.approx(5.0)


def test_a_call_larger_than_the_bucket_waits_for_a_full_one_and_goes() -> None:
    gate = RateGate(requests_per_minute=None, tokens_per_minute=600)
    assert gate.delay(0.0, 10**6) == 0
    gate.take(100)
    assert 0 < gate.delay(0.0, 10**6) <= 10.0


def report(limit: float, remaining: float, reset: str, what: str = "requests") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": f"{limit:g}",
        f"x-ratelimit-remaining-{what}": f"{remaining:g}",
        f"x-ratelimit-reset-{what}": reset,
    }


def requests_in_a_minute(gate: RateGate, start: float) -> int:
    now, sent = start, 0
    while now < start + 60.0:
        wait = gate.delay(now, 1)
        if wait == 0:
            gate.take(1)
            sent += 1
        now += max(wait, 0.001)
    return sent


def unlimited() -> RateGate:
    return RateGate(requests_per_minute=None, tokens_per_minute=None)


@pytest.mark.parametrize(
    "reported",
    [report(120, 119, "500ms"), report(120, 60, "30s"), report(120, 1, "59.5s"), report(120, 80, "20")],
    ids=["one used", "half used", "one left", "plain seconds"],
)
def test_a_limit_by_the_minute_that_the_endpoint_reports_is_kept_to(reported: dict[str, str]) -> None:
    gate = unlimited()
    gate.learn(reported, 1000.0)
    assert 120 <= requests_in_a_minute(gate, 1000.0) <= 133


@pytest.mark.parametrize(
    "reported",
    [
        report(10_000, 9_999, "8.64s"),  # refills in a day
        report(10, 9, "100ms"),  # in a second
        report(60, 60, "0s"),  # nothing used: it does not tell
        report(0, 5, "60s"),
        {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "30"},
        report(60, 30, "later"),
        {"x-ratelimit-remaining-requests": "30", "x-ratelimit-reset-requests": "30s"},
    ],
)
def test_a_limit_by_another_period_or_none_at_all_changes_nothing(reported: dict[str, str]) -> None:
    gate = unlimited()
    gate.learn(reported, 1000.0)
    for _ in range(500):
        gate.take(1)
    assert gate.delay(1000.0, 1) == 0.0


def test_a_reported_limit_on_tokens_follows_what_the_endpoint_says_last() -> None:
    gate = unlimited()
    gate.learn(report(6000, 3000, "30s", "tokens"), 0.0)
    gate.take(600)
    assert gate.delay(0.0, 100) == pytest.approx(1.0)
    gate.learn(report(6000, 2400, "36s", "tokens"), 0.0)
    assert gate.delay(0.0, 100) == pytest.approx(1.0)
    gate.learn(report(60_000, 30_000, "30s", "tokens"), 0.0)
    assert gate.delay(0.0, 100) == 0.0


def test_a_limit_that_is_set_is_not_changed_by_what_is_reported() -> None:
    gate = RateGate(requests_per_minute=120, tokens_per_minute=None)
    gate.learn(report(6000, 3000, "30s"), 1000.0)
    assert 120 <= requests_in_a_minute(gate, 1000.0) <= 133


def test_nothing_left_closes_the_gate_until_its_reset() -> None:
    gate = RateGate(requests_per_minute=None, tokens_per_minute=None)
    gate.learn({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6s"}, 100.0)
    gate.learn({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m0s"}, 100.0)
    gate.learn({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "later"}, 100.0)
    assert gate.delay(101.0, 1) == 5.0
    assert gate.delay(106.0, 1) == 0.0
