"""Tests of requests and tokens per minute, on a clock of their own."""

from __future__ import annotations

import pytest

from runtime.models.rates import RateGate


def test_no_minute_has_many_more_requests_than_allowed() -> None:
    gate = RateGate(requests_per_minute=120, tokens_per_minute=None)
    now, sent = 1000.0, 0
    while now < 1060.0:
        wait = gate.delay(now, 0)
        if wait == 0:
            gate.take(0)
            sent += 1
        now += max(wait, 0.001)
    assert 120 <= sent <= 133


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


def test_nothing_left_closes_the_gate_until_its_reset() -> None:
    gate = RateGate(requests_per_minute=None, tokens_per_minute=None)
    gate.learn({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6s"}, 100.0)
    gate.learn({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m0s"}, 100.0)
    gate.learn({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "later"}, 100.0)
    assert gate.delay(101.0, 1) == 5.0
    assert gate.delay(106.0, 1) == 0.0
