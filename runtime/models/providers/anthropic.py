"""Anthropic's own protocol, the Messages API, through its SDK.

The system message goes apart from the others. Thoughts come back in blocks of their own and become the reasoning.
Of the prompt's tokens the API counts only those that were neither read from its cache nor written to it; we count
all of them. Versions of the API after 2023-06-01 take no temperature and no top_p (see `capabilities`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import httpx2
import orjson
from anthropic import AnthropicError, APIStatusError, AsyncAnthropic

from runtime.clock import loop_time
from runtime.models.bodies import Answer, count, parse_json, text_of
from runtime.models.capabilities import fit
from runtime.models.chat import ChatRequest, Usage, to_json
from runtime.models.faults import Fault, body_fault, connection_fault, filter_fault
from runtime.models.providers.http import refusal, without_secrets
from runtime.models.providers.sdk import SDK_NETWORK_ERRORS, make_http_client, make_timeout
from runtime.models.rates import HEADER_PREFIX
from runtime.models.retry import seconds_until
from runtime.models.settings import PLACEHOLDER_KEY, EndpointSettings
from runtime.models.transport import Learn
from store.messages import Message, image_parts

_MESSAGES_PATH = "/v1/messages"
_COUNT_PATH = "/v1/messages/count_tokens"
_DEFAULT_MAX_TOKENS = 4096  # the API has no default of its own
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}


class AnthropicTransport:
    """The Messages API through a client of the SDK; `headers` go with each request."""

    def __init__(
        self, settings: EndpointSettings, learn: Learn, client: AsyncAnthropic, headers: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._learn = learn
        self._client = client
        self._headers = headers
        self._as_text = partial(without_secrets, secrets=settings.secrets)

    async def open(self) -> None:
        """Nothing to do: connections are opened as they are needed."""

    def encode(self, request: ChatRequest) -> bytes:
        """The JSON of `POST /v1/messages`."""
        request = fit(request, self._settings.capabilities)
        system = "\n\n".join(message.content for message in request.messages if message.role == "system")
        fields: dict[str, object] = {
            "model": request.model,
            "max_tokens": request.max_tokens or _DEFAULT_MAX_TOKENS,
            "messages": [
                {"role": message.role, "content": _content(message)}
                for message in request.messages
                if message.role != "system"
            ],
        }
        if system:
            fields["system"] = system
        if request.temperature is not None:
            fields["temperature"] = min(request.temperature, 1.0)
        if request.top_p is not None:
            fields["top_p"] = request.top_p
        if request.stop:
            fields["stop_sequences"] = request.stop
        return to_json(fields)

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Answer | Fault:
        """Post a body; every way in which endpoint or network can fail comes back as a fault."""
        started = loop_time()
        try:
            response = await self._post(_MESSAGES_PATH, body, headers)
        except APIStatusError as error:
            answer = error.response
            return refusal(
                answer.status_code,
                answer.headers,
                answer.content,
                self._settings.secrets,
                request_id=_request_id(answer),
            )
        except (AnthropicError, *SDK_NETWORK_ERRORS) as error:
            elapsed = loop_time() - started
            return connection_fault(error, elapsed=elapsed, connect_timeout=self._settings.connect_timeout)
        if report := _request_limit(response.headers):
            self._learn(report)
        return read_message(response.content, _request_id(response), self._as_text)

    async def count_tokens(self, body: bytes) -> int | None:
        """Ask `/v1/messages/count_tokens`, which costs nothing."""
        request = orjson.loads(body)
        asked = {name: request[name] for name in ("model", "messages", "system") if name in request}
        try:
            response = await self._post(_COUNT_PATH, orjson.dumps(asked), {})
        except (AnthropicError, *SDK_NETWORK_ERRORS):
            return None
        document = parse_json(response.content)
        return count(document.get("input_tokens")) or None if isinstance(document, dict) else None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        return await self._client.post(
            path,
            content=body,
            cast_to=httpx2.Response,
            options={"headers": {**headers, **self._headers}, "follow_redirects": False},
        )


def make_transport(settings: EndpointSettings, learn: Learn) -> AnthropicTransport:
    """A transport with a client that finds no other credentials than the settings'."""
    timeout = make_timeout(settings.connect_timeout)
    key = settings.api_key or PLACEHOLDER_KEY
    client = AsyncAnthropic(
        api_key=key,
        base_url=settings.base_url,
        max_retries=0,
        timeout=timeout,
        http_client=make_http_client(timeout),
    )
    # The SDK sends the key as a bearer token, while gateways written for older ones look for this header.
    headers = {"X-Api-Key": key, "Authorization": f"Bearer {key}", **dict(settings.headers)}
    if settings.api_version:
        headers["anthropic-version"] = settings.api_version
    return AnthropicTransport(settings, learn, client, headers)


def _content(message: Message) -> str | list[dict[str, object]]:
    """A text, or text and images as blocks."""
    # The API refuses empty texts, but a policy's empty reply is part of the conversation.
    text = message.content or "(empty)"
    if not message.images:
        return text
    blocks: list[dict[str, object]] = [{"type": "text", "text": text}]
    for kind, content in map(image_parts, message.images):
        source = {"type": "base64", "media_type": f"image/{kind}", "data": content}
        blocks.append({"type": "image", "source": source})
    return blocks


def read_message(body: bytes, request_id: str, as_text: Callable[[bytes], str]) -> Answer | Fault:
    """Read a message; a body that is none becomes the fault that says why."""
    document = parse_json(body)
    if not isinstance(document, dict):
        return body_fault("the reply is not a JSON object", as_text(body), request_id=request_id)
    blocks = document.get("content")
    stop_reason = text_of(document.get("stop_reason"))
    if not isinstance(blocks, list) or not stop_reason:
        return body_fault("the reply is no message", as_text(body), request_id=request_id)
    if stop_reason == "refusal":
        return filter_fault(request_id, _read_usage(document.get("usage")))
    parts = [block for block in blocks if isinstance(block, dict)]
    return Answer(
        content="".join(text_of(part.get("text")) for part in parts if part.get("type") == "text"),
        reasoning="".join(text_of(part.get("thinking")) for part in parts if part.get("type") == "thinking"),
        finish_reason=_FINISH_REASONS.get(stop_reason, stop_reason),
        usage=_read_usage(document.get("usage")),
        request_id=request_id or text_of(document.get("id")),
    )


def _read_usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage(prompt=0, completion=0)
    cached, written = count(usage.get("cache_read_input_tokens")), count(usage.get("cache_creation_input_tokens"))
    return Usage(
        prompt=count(usage.get("input_tokens")) + cached + written,
        completion=count(usage.get("output_tokens")),
        cached=cached,
    )


def _request_limit(headers: Mapping[str, str]) -> dict[str, str]:
    """What the API reports of requests a minute, under the names that OpenAI has for it; nothing where none is left.

    Then its reset is not when the next one is admitted, which `Retry-After` tells. Limits on tokens are not learnt:
    those that were read from the cache do not count.
    """
    limit, remaining, reset = (
        headers.get(f"anthropic-ratelimit-requests-{name}", "") for name in ("limit", "remaining", "reset")
    )
    seconds = seconds_until(reset, headers)
    if seconds is None or remaining in ("", "0"):
        return {}
    return {
        f"{HEADER_PREFIX}limit-requests": limit,
        f"{HEADER_PREFIX}remaining-requests": remaining,
        f"{HEADER_PREFIX}reset-requests": str(seconds),
    }


def _request_id(response: httpx2.Response) -> str:
    return text_of(response.headers.get("request-id"))
