"""Tests of the Messages API through Anthropic's SDK."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import pytest
from aiohttp import web

from runtime.models.capabilities import SAMPLING_VERSION, capabilities_of
from runtime.models.chat import Usage
from runtime.models.endpoint import Endpoint
from runtime.models.errors import (
    ContentFiltered,
    ContextOverflow,
    EndpointStopped,
    ModelError,
    RequestRefused,
)
from runtime.models.limiter import Limiting
from tests.models.providers.speaking import PICTURE, REQUEST, SEEING, Asked, endpoint, reply, speaking
from tests.models.server import KEY, Behaviour, answer, reset_before, reset_during, stall

USAGE = {
    "input_tokens": 5,
    "cache_read_input_tokens": 40,
    "cache_creation_input_tokens": 3,
    "output_tokens": 7,
}
KNOWN = {"model", "messages", "system", "max_tokens", "stop_sequences", "temperature", "top_p"}


def message(text: str = "hi", stop_reason: str = "end_turn", *before: dict[str, Any]) -> dict[str, Any]:
    """A whole, valid message."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [*before, {"type": "text", "text": text}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": USAGE,
    }


def error(kind: str, text: str) -> dict[str, Any]:
    """An error in Anthropic's form."""
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}


def problem(asked: Asked) -> str:
    """What the API would find wrong with a request."""
    document, version = asked.document, asked.headers["anthropic-version"]
    if version != SAMPLING_VERSION and {"temperature", "top_p"} & document.keys():
        return "temperature: Extra inputs are not permitted"
    if unknown := document.keys() - KNOWN:
        return f"{sorted(unknown)[0]}: Extra inputs are not permitted"
    if "max_tokens" not in document:
        return "max_tokens: Field required"
    if any(each["role"] not in ("user", "assistant") or not each["content"] for each in document["messages"]):
        return "messages: text content blocks must be non-empty"
    return ""


def api(asked: Asked) -> web.Response:
    """Anthropic's server, as far as we use it."""
    if f"Bearer {KEY}" != asked.headers.get("authorization"):
        return reply(error("authentication_error", f"invalid key {asked.headers.get('authorization')}"), 401)
    if asked.path == "/v1/messages/count_tokens":
        return reply({"input_tokens": len(asked.body)})
    if asked.path != "/v1/messages":
        return reply(error("not_found_error", "not found"), 404)
    if wrong := problem(asked):
        return reply(error("invalid_request_error", wrong), 400)
    return reply(message(), headers={"request-id": "req_7"})


def claude(url: str, *, model: str = "claude-sonnet-4-5", api_version: str = "", **settings: Any) -> Endpoint:
    capabilities = capabilities_of(model, provider="anthropic", api_version=api_version)
    return endpoint(url, provider="anthropic", api_version=api_version, capabilities=capabilities, **settings)


async def test_a_request_is_the_messages_api_s_and_the_reply_has_all_tokens() -> None:
    async with speaking(api) as server, claude(server.url) as expert:
        got = await expert.complete(REQUEST, headers={"x-cso-role": "expert"})
    assert server.asked[0].document == {
        "model": "m",
        "max_tokens": 100,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "(empty)"},
            {"role": "user", "content": "?"},
        ],
        "stop_sequences": ["END"],
    }
    assert server.asked[0].headers["x-cso-role"] == "expert"
    assert server.asked[0].headers["x-api-key"] == KEY
    assert (got.content, got.finish_reason, got.request_id) == ("hi", "stop", "req_7")
    assert got.usage == Usage(prompt=48, completion=7, cached=40)


async def test_images_are_blocks_behind_the_text() -> None:
    async with speaking(api) as server, claude(server.url) as expert:
        await expert.complete(SEEING, headers={})
    text, image = server.asked[0].document["messages"][0]["content"]
    assert text == {"type": "text", "text": "what is it?"}
    source = {"type": "base64", "media_type": "image/png", "data": PICTURE.partition(",")[2]}
    assert image == {"type": "image", "source": source}


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/messages"])
async def test_the_address_may_be_given_with_or_without_its_path(path: str) -> None:
    async with speaking(api) as server, claude(server.url + path) as expert:
        await expert.complete(REQUEST, headers={})
    assert server.asked[0].path == "/v1/messages"


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("claude-3-5-sonnet-20241022", {"temperature": 0.2, "top_p": 0.9}),
        ("claude-sonnet-4-5-20250929", {"temperature": 0.2}),
        ("claude-opus-4-8", {}),
    ],
)
async def test_the_older_version_of_the_api_takes_the_sampling_that_the_model_takes(
    model: str, sent: dict[str, float]
) -> None:
    async with speaking(api) as server, claude(server.url, model=model, api_version=SAMPLING_VERSION) as expert:
        await expert.complete(REQUEST, headers={})
    assert server.asked[0].headers["anthropic-version"] == SAMPLING_VERSION
    document = server.asked[0].document
    assert {name: document[name] for name in ("temperature", "top_p") if name in document} == sent


async def test_thoughts_are_kept_apart() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}

    def think(_: Asked) -> web.Response:
        return reply(message("so", "max_tokens", thinking, {"type": "redacted_thinking", "data": "x"}))

    async with speaking(think) as server, claude(server.url) as expert:
        got = await expert.complete(REQUEST, headers={})
    assert (got.content, got.reasoning, got.finish_reason) == ("so", "hm", "length")


PASSING: dict[str, Behaviour] = {
    "overloaded": answer(error("overloaded_error", "Overloaded"), 529),
    "rate limited": answer(error("rate_limit_error", "slow"), 429, {"retry-after": "0"}),
    "internal": answer(error("api_error", "oops"), 500),
    "HTML": answer(b"<html>bad gateway</html>", 502, content_type="text/html"),
    "HTML with status 200": answer(b"<html>hi</html>", content_type="text/html"),
    "an error with status 200": answer(error("overloaded_error", "Overloaded")),
    "truncated": answer(b'{"type": "message", "content": ['),
    "reset before the body": reset_before,
    "reset during the body": reset_during,
}


@pytest.mark.parametrize("behaviour", PASSING.values(), ids=PASSING.keys())
async def test_a_passing_fault_costs_an_attempt(behaviour: Behaviour) -> None:
    async with speaking(api, behaviour) as server, claude(server.url) as expert:
        got = await expert.complete(REQUEST, headers={})
    assert (got.content, got.attempts) == ("hi", 2)


async def test_a_stalled_attempt_ends_in_time() -> None:
    async with speaking(api, stall) as server, claude(server.url, timeout=1.0) as expert:
        got = await expert.complete(REQUEST, headers={})
    assert got.attempts == 2


FINAL: dict[str, tuple[Behaviour, type[ModelError]]] = {
    "too long": (
        answer(error("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), 400),
        ContextOverflow,
    ),
    "too large": (answer(error("request_too_large", "Request exceeds the maximum size"), 413), ContextOverflow),
    "refusal": (answer(message("", "refusal")), ContentFiltered),
    "no credit": (
        answer(error("invalid_request_error", "Your credit balance is too low to access the API."), 400),
        EndpointStopped,
    ),
    "billing": (answer(error("billing_error", "pay"), 402), EndpointStopped),
    "forbidden": (answer(error("permission_error", "not yours"), 403), EndpointStopped),
    "no such model": (answer(error("not_found_error", "model: m"), 404), EndpointStopped),
    "bad request": (answer(error("invalid_request_error", "messages: too few"), 400), RequestRefused),
}


@pytest.mark.parametrize(("behaviour", "kind"), FINAL.values(), ids=FINAL.keys())
async def test_a_final_fault_is_never_retried(behaviour: Behaviour, kind: type[ModelError]) -> None:
    async with speaking(api, behaviour) as server, claude(server.url) as expert:
        with pytest.raises(kind) as caught:
            await expert.complete(REQUEST, headers={})
    assert type(caught.value) is kind
    assert len(server.asked) == 1


async def test_a_refused_key_stops_the_endpoint_and_is_in_no_error() -> None:
    async with speaking(api) as server, claude(server.url, api_key="sk-ant-wrong-0123456789") as expert:
        with pytest.raises(EndpointStopped) as caught:
            await expert.complete(REQUEST, headers={})
        with pytest.raises(EndpointStopped):
            await expert.complete(REQUEST, headers={})
    assert len(server.asked) == 1
    assert "EXPERT_KEY" in str(caught.value)
    assert "sk-ant-wrong" not in "".join(traceback.format_exception(caught.value))


async def test_no_other_credential_of_the_sdk_s_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-the-environment")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-of-the-environment")
    async with speaking(api) as server, claude(server.url, api_key=None) as expert:
        with pytest.raises(EndpointStopped, match="no key is set"):
            await expert.complete(REQUEST, headers={})
    assert "environment" not in str(server.asked[0].headers)


async def test_messages_near_the_limit_are_counted_by_the_api() -> None:
    async with speaking(api) as server, claude(server.url, max_input_tokens=60) as expert:
        with pytest.raises(ContextOverflow, match="max_input_tokens is 60"):
            await expert.complete(REQUEST, headers={})
    assert [asked.path for asked in server.asked] == ["/v1/messages/count_tokens"]


async def test_the_limit_on_requests_that_the_api_reports_is_kept_to() -> None:
    now = datetime(2026, 11, 2, 10, tzinfo=UTC)
    headers = {
        "date": format_datetime(now, usegmt=True),
        "anthropic-ratelimit-requests-limit": "4",
        "anthropic-ratelimit-requests-remaining": "1",
        "anthropic-ratelimit-requests-reset": (now + timedelta(seconds=45)).isoformat().replace("+00:00", "Z"),
    }

    def limited(_: Asked) -> web.Response:
        response = reply(message())
        response.headers.update(headers)
        return response

    async with speaking(limited) as server, claude(server.url) as expert, anyio.create_task_group() as group:
        for _ in range(2):
            await expert.complete(REQUEST, headers={})
        group.start_soon(lambda: expert.complete(REQUEST, headers={}))
        await anyio.wait_all_tasks_blocked()
        assert expert.snapshot().limiting is Limiting.RATE_LIMIT
        group.cancel_scope.cancel()
    assert len(server.asked) == 2
