"""OpenAI's chat completions, and all that is compatible: vLLM, SGLang, LiteLLM, Databricks, `transformers serve`.

Requests go through the SDK as serialised bytes and come back as a plain response: its typed `create` spends more
time on walking messages and building models than all the rest takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import anyio
import httpx2
import orjson
from openai import APIStatusError, AsyncOpenAI, Omit, OpenAIError

from runtime.models.bodies import Answer, count, parse_json, read_answer
from runtime.models.capabilities import fit
from runtime.models.chat import ChatRequest
from runtime.models.faults import Fault, connection_fault
from runtime.models.providers.http import NETWORK_ERRORS, make_http_client, make_timeout, refusal, without_secrets
from runtime.models.rates import HEADER_PREFIX
from runtime.models.settings import COMPLETIONS_PATH, PLACEHOLDER_KEY, EndpointSettings
from runtime.models.transport import Learn


class OpenAITransport:
    """Chat completions through a client of the SDK; `headers` go with each request."""

    def __init__(
        self, settings: EndpointSettings, learn: Learn, client: AsyncOpenAI, headers: Mapping[str, str | Omit]
    ) -> None:
        self._settings = settings
        self._learn = learn
        self._client = client
        self._headers = headers
        self._as_text = partial(without_secrets, secrets=settings.secrets)

    async def open(self) -> None:
        """Nothing to do: connections are opened as they are needed."""

    def encode(self, request: ChatRequest) -> bytes:
        """The JSON of `POST /chat/completions`."""
        able = self._settings.capabilities
        return fit(request, able).body(limit_name=able.limit_name, system_role=able.system, thinking=able.thinking)

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Answer | Fault:
        """Post a body; every way in which endpoint or network can fail comes back as a fault."""
        started = anyio.current_time()
        try:
            response = await self._client.post(
                COMPLETIONS_PATH,
                content=body,
                cast_to=httpx2.Response,
                options={"headers": {**headers, **self._headers}, "security": {}, "follow_redirects": False},
            )
        except APIStatusError as error:
            request_id = self._note_headers(error.response)
            return refusal(error.response, self._settings.secrets, request_id=request_id)
        except (OpenAIError, *NETWORK_ERRORS) as error:
            elapsed = anyio.current_time() - started
            return connection_fault(error, elapsed=elapsed, connect_timeout=self._settings.connect_timeout)
        return read_answer(response.content, self._note_headers(response), self._as_text)

    async def count_tokens(self, body: bytes) -> int | None:
        """Ask vLLM's `/tokenize`, which lies beside `/v1`."""
        request = orjson.loads(body)
        asked = orjson.dumps({"model": request["model"], "messages": request["messages"]})
        url = self._settings.base_url.removesuffix("/v1") + "/tokenize"
        try:
            response = await self._client.post(
                url,
                content=asked,
                cast_to=httpx2.Response,
                options={"headers": self._headers, "security": {}, "follow_redirects": False},
            )
        except (OpenAIError, *NETWORK_ERRORS):
            return None
        document = parse_json(response.content)
        return count(document.get("count")) or None if isinstance(document, dict) else None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _note_headers(self, response: httpx2.Response) -> str:
        """Learn from the rate limits and find the request id, in one pass over what is slow to look up by name."""
        noted = {
            name.lower().decode("latin-1"): value.decode("latin-1")
            for name, value in response.headers.raw
            if name[:3].lower() == b"x-r"
        }
        if any(name.startswith(HEADER_PREFIX) for name in noted):
            self._learn(noted)
        return noted.get("x-request-id", "")


def make_transport(settings: EndpointSettings, learn: Learn) -> OpenAITransport:
    """A transport with a client that reads nothing from the environment."""
    timeout = make_timeout(settings.connect_timeout)
    key = settings.api_key or PLACEHOLDER_KEY
    client = AsyncOpenAI(
        api_key=key,
        base_url=settings.base_url,
        max_retries=0,
        timeout=timeout,
        http_client=make_http_client(timeout),
    )
    client.organization = client.project = None
    # Set on each request, where neither the SDK's environment variables nor its defaults can overrule it.
    return OpenAITransport(settings, learn, client, {**dict(settings.headers), "Authorization": f"Bearer {key}"})
