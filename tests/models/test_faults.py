"""Tests of how failures are sorted, without a network."""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp
import httpx2
import openai
import orjson
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadStatusLine

from runtime.models.errors import (
    BODY_CHARS,
    ContentFiltered,
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


KEY = ConnectionKey("models.example", 443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "unknown")), "there is no such host"),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ENETUNREACH, "x")), "network is unreachable"),
        (aiohttp.ClientProxyConnectionError(KEY, ConnectionRefusedError(111, "x")), "the proxy does not answer"),
        (aiohttp.ConnectionTimeoutError("x"), "no connection in time"),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError(1, "self-signed")),
            "its certificate is not trusted",
        ),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "wrong version number")), "it does not speak TLS"),
    ],
)
def test_why_a_server_is_not_reached_is_said_in_words_with_what_to_check(error: Exception, words: str) -> None:
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    fault = connection_fault(chained(error, *([inner] if inner else [])), elapsed=11.0, connect_timeout=10.0)
    assert (fault.reaction, fault.unreached, fault.reason) == (Reaction.LATER, True, f"cannot connect: {words}")
    assert fault.advice


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ServerDisconnectedError(), "the server closed it"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "x"), "connection reset by peer"),
        (ConnectionResetError(), "the server reset it"),
        (aiohttp.ClientPayloadError("x"), "the reply broke off"),
        (chained(aiohttp.ClientConnectionError(), BadStatusLine("x")), "what came is not HTTP"),
    ],
)
def test_why_a_connection_broke_is_said_in_words(error: BaseException, words: str) -> None:
    fault = connection_fault(error, elapsed=0.0, connect_timeout=10.0)
    assert (fault.reaction, fault.unreached, fault.reason) == (Reaction.NOW, False, f"connection lost: {words}")


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
    ("status", "message", "error"),
    [
        (400, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", ContextOverflow),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096", ContextOverflow),
        (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens", ContextOverflow),
        (400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy", ContentFiltered),
        (424, "The request failed due to an error while processing the model", EndpointUnavailable),
    ],
)
def test_what_providers_say_is_sorted_by_what_it_means(status: int, message: str, error: type[ModelError]) -> None:
    assert status_fault(status, orjson.dumps({"error": {"message": message}}).decode()).error is error


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
