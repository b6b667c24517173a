"""OpenAI's chat completions, and all that is compatible: vLLM, SGLang, LiteLLM, Databricks, `transformers serve`.

Requests go out over the SDK's own HTTP client, but not through its request layer, which spends three times as much on
building a request as all the rest takes; `tests/models/providers/test_openai.py` holds ours to what that would send.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import anyio
import httpx2
import orjson

from runtime.models.bodies import Answer, count, parse_json, read_answer
from runtime.models.capabilities import fit
from runtime.models.chat import ChatRequest
from runtime.models.faults import Fault, connection_fault
from runtime.models.providers.http import NETWORK_ERRORS, make_http_client, make_timeout, refusal, without_secrets
from runtime.models.rates import HEADER_PREFIX
from runtime.models.settings import COMPLETIONS_PATH, PLACEHOLDER_KEY, EndpointSettings
from runtime.models.transport import Learn

_JSON = "application/json"


class OpenAITransport:
    """Chat completions at a URL; `headers` go with each request."""

    def __init__(self, settings: EndpointSettings, learn: Learn, url: str, headers: Mapping[str, str]) -> None:
        self._settings = settings
        self._learn = learn
        timeout = make_timeout(settings.connect_timeout)
        self._http = make_http_client(timeout)
        self._url = httpx2.URL(url)
        always = {"Accept": _JSON, "Content-Type": _JSON, **headers}
        self._headers = [(name.encode(), value.encode()) for name, value in always.items()]
        self._extensions = {"timeout": timeout.as_dict()}
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
            response = await self._post(self._url, body, headers)
        except NETWORK_ERRORS as error:
            elapsed = anyio.current_time() - started
            return connection_fault(error, elapsed=elapsed, connect_timeout=self._settings.connect_timeout)
        request_id = self._note_headers(response)
        if not response.is_success:
            return refusal(response, self._settings.secrets, request_id=request_id)
        return read_answer(response.content, request_id, self._as_text)

    async def _post(self, url: httpx2.URL, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
        """Post a body and read the answer whole. Raises NETWORK_ERRORS."""
        # A stream and headers that are bytes already spare most of what making a request costs.
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        request = httpx2.Request(
            "POST",
            url,
            headers=[*sent, *self._headers],
            stream=httpx2.ByteStream(body),
            extensions=self._extensions,
        )
        request.read()
        return await self._http.send(request, follow_redirects=False)

    async def count_tokens(self, body: bytes) -> int | None:
        """Ask vLLM's `/tokenize`, which lies beside `/v1`."""
        request = orjson.loads(body)
        asked = orjson.dumps({"model": request["model"], "messages": request["messages"]})
        url = httpx2.URL(self._settings.base_url.removesuffix("/v1") + "/tokenize")
        try:
            response = await self._post(url, asked, {})
        except NETWORK_ERRORS:
            return None
        document = parse_json(response.content)
        return count(document.get("count")) or None if isinstance(document, dict) else None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

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
    """A transport that reads nothing from the environment."""
    headers = {**dict(settings.headers), "Authorization": f"Bearer {settings.api_key or PLACEHOLDER_KEY}"}
    return OpenAITransport(settings, learn, settings.base_url + COMPLETIONS_PATH, headers)
