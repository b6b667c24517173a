"""Tests of how failures are sorted, without a network."""

from __future__ import annotations

import aiohttp
import httpx2
import openai
import pytest

from runtime.models.errors import (
    BODY_CHARS,
    ContextOverflow,
    EndpointStopped,
    EndpointUnavailable,
    ModelError,
    RequestRefused,
)
from runtime.models.faults import Reaction, connection_fault, status_fault

REQUEST = httpx2.Request("POST", "http://localhost/v1")


def chained(outer: BaseException, *causes: BaseException) -> BaseException:
    error = outer
    for cause in causes:
        error.__cause__ = cause
        error = cause
    return outer


@pytest.mark.parametrize(
    ("error", "elapsed", "reaction"),
    [
        (
            chained(
                openai.APITimeoutError(REQUEST), httpx2.ConnectTimeout("x"), aiohttp.ClientConnectionResetError("x")
            ),
            0.0,
            Reaction.NOW,
        ),
        (
            chained(openai.APITimeoutError(REQUEST), httpx2.ConnectTimeout("x"), aiohttp.ServerDisconnectedError()),
            99.0,
            Reaction.NOW,
        ),
        (
            chained(openai.APITimeoutError(REQUEST), httpx2.ReadTimeout("x"), aiohttp.SocketTimeoutError("x")),
            5.0,
            Reaction.LATER,
        ),
        (openai.APITimeoutError(REQUEST), 0.01, Reaction.NOW),
        (openai.APITimeoutError(REQUEST), 11.0, Reaction.LATER),
        (chained(openai.APIConnectionError(request=REQUEST), httpx2.ReadError("x")), 1.0, Reaction.NOW),
        (
            chained(openai.APIConnectionError(request=REQUEST), httpx2.ConnectError("x"), ConnectionRefusedError()),
            0.0,
            Reaction.LATER,
        ),
        (ConnectionResetError(), 0.0, Reaction.NOW),
    ],
)
def test_a_timeout_is_one_only_by_its_cause_or_the_clock(
    error: BaseException, elapsed: float, reaction: Reaction
) -> None:
    fault = connection_fault(error, elapsed=elapsed, connect_timeout=10.0)
    assert fault.reaction is reaction
    assert fault.error is EndpointUnavailable


@pytest.mark.parametrize("status", [401, 402, 403, 407])
def test_refused_keys_and_accounts_stop_the_endpoint(status: int) -> None:
    assert status_fault(status, "no").error is EndpointStopped


def test_an_answer_is_cut_to_what_an_error_may_hold() -> None:
    fault = status_fault(500, "line\n" * 1000)
    assert len(fault.body) <= BODY_CHARS
    assert "\n" not in fault.body
    error = fault.to_error("policy", attempts=3)
    assert str(error).startswith("endpoint policy: the endpoint failed (status 500, 3 attempts); it said: line line")


def test_only_a_fault_that_is_retried_asks_for_a_pause() -> None:
    assert status_fault(503, "", retry_after=5).retry_after == 5
    assert status_fault(400, "", retry_after=5).retry_after is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('{"detail": "The prompt is too long: 9000 tokens"}', ContextOverflow),
        ('{"detail": [{"msg": "field required", "input": "tell me of context length"}]}', RequestRefused),
    ],
)
def test_the_sentence_of_a_plain_web_framework_is_read_and_its_echo_of_the_request_is_not(
    body: str, error: type[ModelError]
) -> None:
    assert status_fault(400, body).error is error
