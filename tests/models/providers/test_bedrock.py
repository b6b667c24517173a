"""Tests of Bedrock's Converse API through aiobotocore."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import anyio
import pytest
from aiohttp import web

from runtime.errors import ConfigError
from runtime.models.capabilities import capabilities_of
from runtime.models.chat import Usage
from runtime.models.endpoint import Endpoint
from runtime.models.errors import (
    ContentFiltered,
    ContextOverflow,
    EndpointStopped,
    EndpointUnavailable,
    ModelError,
    RequestRefused,
)
from tests.models.providers.speaking import PICTURE, REQUEST, SEEING, Asked, endpoint, reply, speaking
from tests.models.server import Behaviour, answer, reset_before, reset_during, stall

ACCESS, SECRET = "AKIAEXAMPLE000000000", "secret/of/aws/0123456789"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of AWS in the environment, and no others anywhere."""
    for name in ("AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")


def converse(stop_reason: str = "end_turn", *blocks: dict[str, Any]) -> dict[str, Any]:
    """What Converse answers."""
    return {
        "output": {"message": {"role": "assistant", "content": list(blocks) or [{"text": "hi"}]}},
        "stopReason": stop_reason,
        "usage": {
            "inputTokens": 5,
            "outputTokens": 7,
            "totalTokens": 55,
            "cacheReadInputTokens": 40,
            "cacheWriteInputTokens": 3,
        },
        "metrics": {"latencyMs": 12},
    }


def refused(kind: str, message: str, status: int) -> Behaviour:
    """An error in the form of AWS."""
    return answer({"message": message}, status, {"x-amzn-ErrorType": f"{kind}:http://internal.amazon.com/"})


def runtime(asked: Asked) -> web.Response:
    """The Bedrock runtime, as far as we use it."""
    signed = asked.headers.get("authorization", "")
    if not signed.startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS}/") and signed != "Bearer bedrock-key":
        return reply({"message": "The security token is invalid."}, 403)
    if asked.path.endswith("/count-tokens"):
        return reply({"inputTokens": 61})
    assert asked.path.endswith("/converse")
    document = asked.document
    assert all(block.get("text", "an image") for each in document["messages"] for block in each["content"])
    assert "seed" not in asked.body.decode()
    return reply(converse(), headers={"x-amzn-RequestId": "r-7"})


def bedrock(url: str, **settings: Any) -> Endpoint:
    capabilities = capabilities_of("us.anthropic.claude-3-7-sonnet-20250219-v1:0", provider="bedrock")
    return endpoint(url, provider="bedrock", region="us-west-2", capabilities=capabilities, api_key=None, **settings)


async def test_a_request_is_converse_s_and_the_reply_has_all_tokens() -> None:
    async with speaking(runtime) as server, bedrock(server.url) as expert:
        got = await expert.complete(REQUEST, headers={"x-cso-role": "expert", "x-cso-task": "größe"})
    asked = server.asked[0]
    assert unquote(asked.path) == "/model/m/converse"
    assert asked.document == {
        "messages": [
            {"role": "user", "content": [{"text": "hello"}]},
            {"role": "assistant", "content": [{"text": "(empty)"}]},
            {"role": "user", "content": [{"text": "?"}]},
        ],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 100, "temperature": 0.2, "topP": 0.9, "stopSequences": ["END"]},
    }
    assert (asked.headers["x-cso-role"], asked.headers["x-cso-task"]) == ("expert", "gr%C3%B6%C3%9Fe")
    assert (got.content, got.finish_reason, got.request_id) == ("hi", "stop", "r-7")
    assert got.usage == Usage(prompt=48, completion=7, cached=40)


async def test_images_are_blocks_behind_the_text_also_where_they_are_counted() -> None:
    async with speaking(runtime) as server, bedrock(server.url, max_input_tokens=1000) as expert:
        await expert.complete(SEEING, headers={})
    assert [unquote(asked.path) for asked in server.asked] == ["/model/m/count-tokens", "/model/m/converse"]
    counted = server.asked[0].document["input"]["converse"]["messages"]
    for messages in (counted, server.asked[1].document["messages"]):
        text, image = messages[0]["content"]
        assert text == {"text": "what is it?"}
        # On the wire botocore has them in base64, once.
        assert image == {"image": {"format": "png", "source": {"bytes": PICTURE.partition(",")[2]}}}


async def test_calls_side_by_side_keep_their_own_trace_headers() -> None:
    async with speaking(runtime) as server, bedrock(server.url) as expert, anyio.create_task_group() as tasks:
        for number in range(8):

            async def call(step: str = str(number)) -> None:
                await expert.complete(REQUEST, headers={"x-cso-step": step})

            tasks.start_soon(call)
    assert sorted(asked.headers["x-cso-step"] for asked in server.asked) == [str(number) for number in range(8)]


async def test_thoughts_are_kept_apart() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}

    def think(_: Asked) -> web.Response:
        return reply(converse("max_tokens", thought, {"text": "so"}))

    async with speaking(think) as server, bedrock(server.url) as expert:
        got = await expert.complete(REQUEST, headers={})
    assert (got.content, got.reasoning, got.finish_reason) == ("so", "hm", "length")


async def test_a_bedrock_key_goes_as_a_bearer_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-key")
    async with speaking(runtime) as server, bedrock(server.url) as expert:
        assert (await expert.complete(REQUEST, headers={})).content == "hi"
    assert server.asked[0].headers["authorization"] == "Bearer bedrock-key"


async def test_the_published_scripts_name_of_the_access_key_is_read_where_aws_s_own_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY", "AKIAOFTHESCRIPTS0000")
    async with speaking(runtime) as server, bedrock(server.url) as expert:
        await expert.complete(REQUEST, headers={})
        assert f"Credential={ACCESS}/" in server.asked[0].headers["authorization"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_ACCESS_KEY", ACCESS)
    async with speaking(runtime) as server, bedrock(server.url) as expert:
        assert (await expert.complete(REQUEST, headers={})).content == "hi"


PASSING: dict[str, Behaviour] = {
    "throttled": refused("ThrottlingException", "Too many requests", 429),
    "not ready": refused("ModelNotReadyException", "warming up", 429),
    "timed out": refused("ModelTimeoutException", "slow", 408),
    "unavailable": refused("ServiceUnavailableException", "later", 503),
    "internal": refused("InternalServerException", "oops", 500),
    "HTML": answer(b"<html>bad gateway</html>", 502, content_type="text/html"),
    "HTML with status 200": answer(b"<html>hi</html>", content_type="text/html"),
    "no message": answer({"metrics": {"latencyMs": 1}}),
    "truncated": answer(b'{"output": {"message": '),
    "reset before the body": reset_before,
    "reset during the body": reset_during,
}


@pytest.mark.parametrize("behaviour", PASSING.values(), ids=PASSING.keys())
async def test_a_passing_fault_costs_an_attempt(behaviour: Behaviour) -> None:
    async with speaking(runtime, behaviour) as server, bedrock(server.url) as expert:
        got = await expert.complete(REQUEST, headers={})
    assert (got.content, got.attempts) == ("hi", 2)


async def test_a_stalled_attempt_ends_in_time() -> None:
    async with speaking(runtime, stall) as server, bedrock(server.url, timeout=2.0) as expert:
        got = await expert.complete(REQUEST, headers={})
    assert got.attempts == 2


FINAL: dict[str, tuple[Behaviour, type[ModelError]]] = {
    "too long": (refused("ValidationException", "Input is too long for requested model.", 400), ContextOverflow),
    "guardrail": (answer(converse("guardrail_intervened")), ContentFiltered),
    "filter": (answer(converse("content_filtered")), ContentFiltered),
    "access denied": (refused("AccessDeniedException", "You don't have access to the model", 403), EndpointStopped),
    "expired": (refused("ExpiredTokenException", "The security token is expired", 403), EndpointStopped),
    "no such model": (refused("ResourceNotFoundException", "no model m", 404), EndpointStopped),
    "bad request": (refused("ValidationException", "The model identifier is invalid", 400), RequestRefused),
}


@pytest.mark.parametrize(("behaviour", "kind"), FINAL.values(), ids=FINAL.keys())
async def test_a_final_fault_is_never_retried(behaviour: Behaviour, kind: type[ModelError]) -> None:
    async with speaking(runtime, behaviour) as server, bedrock(server.url) as expert:
        with pytest.raises(kind) as caught:
            await expert.complete(REQUEST, headers={})
    assert type(caught.value) is kind
    assert len(server.asked) == 1
    assert SECRET not in str(caught.value)


async def test_nobody_listening_is_retried_until_the_attempts_are_used_up() -> None:
    async with bedrock("http://127.0.0.1:9") as expert:
        with pytest.raises(EndpointUnavailable, match="cannot connect") as caught:
            await expert.complete(REQUEST, headers={})
    assert caught.value.attempts == 3


async def test_without_credentials_the_endpoint_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with speaking(runtime) as server, bedrock(server.url) as expert:
        with pytest.raises(EndpointStopped, match="check the AWS credentials"):
            await expert.complete(REQUEST, headers={})
    assert server.asked == []


async def test_without_a_region_the_error_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"models\.expert\.region"):
        async with endpoint("", provider="bedrock", api_key=None):
            pass


async def test_messages_near_the_limit_are_counted_by_the_api() -> None:
    async with speaking(runtime) as server, bedrock(server.url, max_input_tokens=60) as expert:
        with pytest.raises(ContextOverflow, match="come to 61 tokens"):
            await expert.complete(REQUEST, headers={})
    assert server.asked[0].path == "/model/m/count-tokens"
