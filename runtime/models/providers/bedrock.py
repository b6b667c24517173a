"""Amazon Bedrock's Converse API, through aiobotocore.

aiobotocore rather than boto3 in worker threads: a call that is cancelled or past its time leaves nothing running,
hundreds in flight need no hundreds of threads, and both are the same botocore underneath. Credentials are found as
everywhere with AWS (environment, profile, role); a Bedrock API key goes into AWS_BEARER_TOKEN_BEDROCK.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import orjson
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoAuthTokenError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
)

from runtime.clock import loop_time
from runtime.errors import ConfigError
from runtime.models.bodies import Answer, count, text_of
from runtime.models.capabilities import fit
from runtime.models.chat import ChatRequest, Usage, to_json
from runtime.models.connecting import why_unreached
from runtime.models.errors import EndpointStopped
from runtime.models.faults import (
    Fault,
    Reaction,
    body_fault,
    connection_fault,
    excerpt,
    filter_fault,
    status_fault,
    unreached_fault,
)
from runtime.models.providers.http import NETWORK_ERRORS, without_secrets
from runtime.models.retry import retry_after
from runtime.models.settings import EndpointSettings
from runtime.models.transport import Learn
from store.messages import Message, image_parts

_MOST_CONNECTIONS = 4096
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}
_FILTERED = frozenset({"content_filtered", "guardrail_intervened"})
_NOT_CONNECTED = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, NoAuthTokenError)

# botocore builds its requests deep inside; its events run in the task that makes the call.
_trace_headers: ContextVar[Mapping[str, str] | None] = ContextVar("trace headers", default=None)


class BedrockTransport:
    """Converse through one client, which `open` makes."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._client: Any = None  # botocore makes its clients from data files, and they have no types

    async def open(self) -> None:
        """Make the client. Raises ConfigError where no region or no such profile is set."""
        settings = self._settings
        config = AioConfig(
            retries={"total_max_attempts": 1},
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.timeout + settings.connect_timeout,  # ours ends the attempt first
            max_pool_connections=_MOST_CONNECTIONS,
            tcp_keepalive=True,
        )
        try:
            client = get_session().create_client(
                "bedrock-runtime",
                region_name=settings.region or None,
                endpoint_url=settings.base_url or None,
                config=config,
                **_other_credentials(os.environ),
            )
            self._client = await self._stack.enter_async_context(client)
        except (NoRegionError, ProfileNotFound) as error:
            reason = str(error).rstrip(".")
            raise ConfigError(f"endpoint {settings.name}: {reason}: set models.{settings.name}.region") from None
        self._client.meta.events.register("before-sign.bedrock-runtime", _add_trace_headers)

    def encode(self, request: ChatRequest) -> bytes:
        """The arguments of Converse as JSON."""
        request = fit(request, self._settings.capabilities)
        limits = {
            "maxTokens": request.max_tokens,
            "temperature": None if request.temperature is None else min(request.temperature, 1.0),
            "topP": request.top_p,
            "stopSequences": list(request.stop) or None,
        }
        fields: dict[str, object] = {
            "modelId": request.model,
            "messages": [
                {"role": message.role, "content": _content(message)}
                for message in request.messages
                if message.role != "system"
            ],
            "inferenceConfig": {name: value for name, value in limits.items() if value is not None},
        }
        system = [{"text": message.content} for message in request.messages if message.role == "system"]
        if system:
            fields["system"] = system
        return to_json(fields)

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Answer | Fault:
        """Call Converse; every way in which endpoint or network can fail comes back as a fault."""
        started = loop_time()
        try:
            with _tracing({**headers, **dict(self._settings.headers)}):
                reply = await self._client.converse(**_arguments(body))
        except ClientError as error:
            return self._refusal(error)
        except _NO_CREDENTIALS as error:
            return Fault(
                reaction=Reaction.NEVER, error=EndpointStopped, reason="no AWS credentials", body=excerpt(str(error))
            )
        except _NOT_CONNECTED as error:
            inner = error.kwargs.get("error")
            causes = [error, inner] if isinstance(inner, BaseException) else [error]
            return unreached_fault(*(why_unreached(causes) or ("no connection", "check network and region")))
        except (HTTPClientError, *NETWORK_ERRORS) as error:
            elapsed = loop_time() - started
            return connection_fault(error, elapsed=elapsed, connect_timeout=self._settings.connect_timeout)
        except BotoCoreError as error:
            return body_fault(f"the reply cannot be read: {type(error).__name__}", "")
        return read_converse(reply)

    async def count_tokens(self, body: bytes) -> int | None:
        """Ask CountTokens, which some of the models have."""
        request = _arguments(body)
        asked = {name: request[name] for name in ("messages", "system") if name in request}
        try:
            reply = await self._client.count_tokens(modelId=request["modelId"], input={"converse": asked})
        except (ClientError, BotoCoreError, *NETWORK_ERRORS):
            return None
        return count(reply.get("inputTokens")) or None

    async def close(self) -> None:
        """Close the client and its connections."""
        await self._stack.aclose()

    def _refusal(self, error: ClientError) -> Fault:
        metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
        document = {
            "error": {"code": error.response["Error"].get("Code"), "message": error.response["Error"].get("Message")}
        }
        return status_fault(
            int(metadata.get("HTTPStatusCode", 500)),
            without_secrets(orjson.dumps(document), self._settings.secrets),
            request_id=str(metadata.get("RequestId", "")),
            retry_after=retry_after(metadata.get("HTTPHeaders", {})),
        )


def make_transport(settings: EndpointSettings, learn: Learn) -> BedrockTransport:  # noqa: ARG001
    """A transport without a client yet; Bedrock reports no rate limits to learn from."""
    return BedrockTransport(settings)


def _content(message: Message) -> list[dict[str, object]]:
    """Text and images as blocks, the images' bytes in base64 until they are sent."""
    # The API refuses empty texts, but a policy's empty reply is part of the conversation.
    blocks: list[dict[str, object]] = [{"text": message.content or "(empty)"}]
    for kind, content in map(image_parts, message.images):
        blocks.append({"image": {"format": kind, "source": {"bytes": content}}})
    return blocks


def _arguments(body: bytes) -> dict[str, Any]:
    """The arguments of Converse, with images as the bytes that botocore wants."""
    arguments: dict[str, Any] = orjson.loads(body)
    for message in arguments["messages"]:
        for block in message["content"]:
            if "image" in block:
                block["image"]["source"]["bytes"] = base64.b64decode(block["image"]["source"]["bytes"])
    return arguments


def read_converse(reply: Mapping[str, Any]) -> Answer | Fault:
    """Read what Converse returned; what is no message becomes the fault that says so."""
    request_id = text_of(reply.get("ResponseMetadata", {}).get("RequestId"))
    stop_reason = text_of(reply.get("stopReason"))
    message = (reply.get("output") or {}).get("message")
    if stop_reason in _FILTERED:
        return filter_fault(request_id, _read_usage(reply.get("usage") or {}))
    if not isinstance(message, dict) or not stop_reason:
        return body_fault("the reply is no message", "", request_id=request_id)
    blocks = [block for block in message.get("content") or [] if isinstance(block, dict)]
    thoughts = [(block.get("reasoningContent") or {}).get("reasoningText") or {} for block in blocks]
    return Answer(
        content="".join(text_of(block.get("text")) for block in blocks),
        reasoning="".join(text_of(thought.get("text")) for thought in thoughts),
        finish_reason=_FINISH_REASONS.get(stop_reason, stop_reason),
        usage=_read_usage(reply.get("usage") or {}),
        request_id=request_id,
    )


def _read_usage(usage: Mapping[str, Any]) -> Usage:
    cached, written = count(usage.get("cacheReadInputTokens")), count(usage.get("cacheWriteInputTokens"))
    return Usage(
        prompt=count(usage.get("inputTokens")) + cached + written,
        completion=count(usage.get("outputTokens")),
        cached=cached,
    )


def _other_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """Credentials under the name that the published scripts read, which AWS's SDK does not; its own names win."""
    key, secret = environ.get("AWS_ACCESS_KEY"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret or environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    return {"aws_access_key_id": key, "aws_secret_access_key": secret}


@contextmanager
def _tracing(headers: Mapping[str, str]) -> Iterator[None]:
    token = _trace_headers.set(headers)
    try:
        yield
    finally:
        _trace_headers.reset(token)


def _add_trace_headers(request: Any, **_: object) -> None:
    for name, value in (_trace_headers.get() or {}).items():
        request.headers[name] = value
