"""Tests of what the endpoint's own tests leave open about OpenAI's protocol: its variants and its tokenizer."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import anyio
import pytest
from aiohttp import web
from anyio.abc import SocketAttribute, SocketStream
from openai import AsyncOpenAI

from runtime.errors import ConfigError
from runtime.models.capabilities import Capabilities, capabilities_of
from runtime.models.endpoint import Endpoint
from runtime.models.errors import ContextOverflow, EndpointStopped, EndpointUnavailable
from runtime.models.settings import EndpointSettings
from store.messages import Message, image_url
from tests.models.providers.speaking import PICTURE, REQUEST, SEEING, Asked, endpoint, reply, speaking, wire
from tests.models.server import KEY, completion


def policy(url: str, capabilities: Capabilities | None = None, **settings: Any) -> Endpoint:
    return endpoint(f"{url}/v1", capabilities=capabilities or Capabilities(), **settings)


def vllm(asked: Asked) -> web.Response:
    """vLLM with a tokenizer that counts ten tokens a message."""
    if asked.path == "/tokenize":
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        count = 10 * len(asked.document["messages"])
        return reply({"count": count, "max_model_len": 50, "tokens": list(range(count))})
    return reply(completion("<think>hm</think>\n\nhi END of it"))


def plain(asked: Asked) -> web.Response:
    """A server without a tokenizer; it counts a token for every byte."""
    if asked.path == "/tokenize":
        return reply({"error": {"message": "Not Found"}}, 404)
    usage = {"prompt_tokens": len(asked.body), "completion_tokens": 1, "total_tokens": len(asked.body) + 1}
    return reply({**completion(), "usage": usage})


async def test_a_request_is_what_the_sdk_would_send_and_its_reply_is_read_alike() -> None:
    async with speaking(vllm) as server:
        async with policy(server.url) as asked:
            got = await asked.complete(REQUEST, headers={"x-cso-role": "policy"})
        async with AsyncOpenAI(api_key=KEY, base_url=f"{server.url}/v1") as sdk:
            fields = server.asked[0].document
            said = await sdk.chat.completions.create(**fields, extra_headers={"x-cso-role": "policy"})
    ours, theirs = server.asked
    assert said.choices[0].message.content == f"<think>{got.reasoning}</think>\n\n{got.content}"
    assert wire(ours) == wire(theirs)


async def test_thoughts_in_tags_become_the_reasoning() -> None:
    async with speaking(vllm) as server, policy(server.url) as asked:
        got = await asked.complete(REQUEST, headers={})
    assert (got.content, got.reasoning) == ("hi END of it", "hm")
    assert server.asked[0].document["stop"] == ["END"]


async def test_a_model_that_is_told_of_no_stop_strings_is_cut_at_them() -> None:
    async with speaking(vllm) as server, policy(server.url, capabilities_of("m", declared={"stop": False})) as asked:
        got = await asked.complete(REQUEST, headers={})
    assert got.content == "hi "
    assert "stop" not in server.asked[0].document


async def test_a_model_without_system_messages_gets_them_in_the_first_user_message() -> None:
    async with speaking(vllm) as server, policy(server.url, Capabilities(system="none")) as asked:
        await asked.complete(REQUEST, headers={})
    messages = server.asked[0].document["messages"]
    assert messages[0] == {"role": "user", "content": "Be brief.\n\nhello"}
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]


async def test_thinking_is_switched_off_in_the_model_s_template_where_that_is_declared() -> None:
    async with speaking(vllm) as server, policy(server.url, Capabilities(thinking=False)) as asked:
        await asked.complete(REQUEST, headers={})
    assert server.asked[0].document["chat_template_kwargs"] == {"enable_thinking": False}
    async with speaking(vllm) as server, policy(server.url) as asked:
        await asked.complete(REQUEST, headers={})
    assert "chat_template_kwargs" not in server.asked[0].document


async def test_images_come_behind_the_text_and_a_model_that_takes_none_is_told_so() -> None:
    async with speaking(vllm) as server, policy(server.url) as asked:
        await asked.complete(SEEING, headers={})
    assert server.asked[0].document["messages"][0]["content"] == [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]
    async with speaking(vllm) as server, policy(server.url, Capabilities(images=False)) as asked:
        await asked.complete(SEEING, headers={})
    assert server.asked[0].document["messages"][0]["content"] == "what is it?\n\n(1 images are not shown.)"


async def test_an_image_is_not_counted_as_if_it_were_text() -> None:
    screenshot = image_url(b"x" * 200_000, "png")
    request = replace(SEEING, messages=(Message("user", "what is it?", images=(screenshot,)),))
    async with speaking(plain) as server, policy(server.url, max_input_tokens=10_000) as asked:
        await asked.complete(request, headers={})
    assert [each.path for each in server.asked] == ["/v1/chat/completions"]


async def test_messages_near_the_limit_are_counted_by_the_server_s_tokenizer() -> None:
    async with speaking(vllm) as server, policy(server.url, max_input_tokens=39) as asked:
        with pytest.raises(ContextOverflow, match="come to 40 tokens, and max_input_tokens is 39"):
            await asked.complete(REQUEST, headers={})
    assert [each.path for each in server.asked] == ["/tokenize"]


async def test_messages_that_fit_by_the_tokenizer_are_sent() -> None:
    async with speaking(vllm) as server, policy(server.url, max_input_tokens=40) as asked:
        await asked.complete(REQUEST, headers={})
    assert [each.path for each in server.asked] == ["/tokenize", "/v1/chat/completions"]


async def test_short_messages_are_not_counted() -> None:
    async with speaking(vllm) as server, policy(server.url, max_input_tokens=10_000) as asked:
        await asked.complete(REQUEST, headers={})
    assert [each.path for each in server.asked] == ["/v1/chat/completions"]


async def test_an_estimate_is_corrected_by_the_usage_where_there_is_no_tokenizer() -> None:
    size = len(REQUEST.body())
    async with speaking(plain) as server, policy(server.url, max_input_tokens=size // 2) as asked:
        await asked.complete(REQUEST, headers={})
        with pytest.raises(ContextOverflow, match=f"about {size} tokens"):
            await asked.complete(REQUEST, headers={})


async def test_a_tokenizer_that_is_not_there_is_not_asked_for_ever() -> None:
    async with speaking(plain) as server, policy(server.url, max_input_tokens=len(REQUEST.body())) as asked:
        for _ in range(6):
            await asked.complete(REQUEST, headers={})
    assert [each.path for each in server.asked].count("/tokenize") == 3


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_a_proxy_that_the_environment_names_is_asked(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    async with speaking(vllm) as proxy:
        monkeypatch.setenv(variable, scheme + proxy.url.removeprefix("http://"))
        async with policy("http://models.example") as asked:
            got = await asked.complete(REQUEST, headers={})
    assert got.content == "hi END of it"
    assert proxy.asked[0].headers["host"] == "models.example"


async def test_what_runs_on_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking(vllm) as proxy, speaking(vllm) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with policy(server.url) as asked:
            await asked.complete(REQUEST, headers={})
    assert (len(proxy.asked), len(server.asked)) == (0, 1)


async def test_a_proxy_that_wants_a_password_stops_the_endpoint_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(stream: SocketStream) -> None:
        async with stream:
            assert (await stream.receive()).startswith(b"CONNECT models.example:443 ")
            await stream.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, refuse)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        async with policy("https://models.example") as asked:
            with pytest.raises(EndpointStopped, match="put user and password into its address"):
                await asked.complete(REQUEST, headers={})
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["a..example", f"{'a' * 64}.example"])
async def test_a_host_that_cannot_be_one_is_not_reached(host: str) -> None:
    async with policy(f"http://{host}") as asked:
        with pytest.raises(EndpointUnavailable, match="cannot connect"):
            await asked.complete(REQUEST, headers={})


@pytest.mark.parametrize(("provider", "package"), [("anthropic", "anthropic"), ("bedrock", "aiobotocore")])
def test_without_its_sdk_a_provider_s_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, provider: str, package: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"runtime.models.providers.{provider}", raising=False)
    with pytest.raises(ConfigError, match=rf'pip install "cso-runtime\[{provider}\]"'):
        Endpoint(EndpointSettings(name="expert", provider=provider, base_url=""))  # type: ignore[arg-type]
