"""OpenAI's chat completions, and all that is compatible: vLLM, SGLang, LiteLLM, Databricks, `transformers serve`.

Requests are written here and sent with aiohttp. The openai package would send the same bytes, to which
`tests/models/providers` holds ours, but takes several times as long over them, and half a second to be imported.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
import yarl

from runtime.clock import loop_time
from runtime.loopback import is_loopback
from runtime.models.bodies import Answer, count, parse_json, read_answer
from runtime.models.capabilities import fit
from runtime.models.chat import ChatRequest
from runtime.models.faults import Fault, body_fault, connection_fault, status_fault
from runtime.models.providers.http import (
    KEEPALIVE_SECONDS,
    MOST_CONNECTIONS,
    NETWORK_ERRORS,
    refusal,
    without_secrets,
)
from runtime.models.rates import HEADER_PREFIX
from runtime.models.settings import COMPLETIONS_PATH, PLACEHOLDER_KEY, EndpointSettings
from runtime.models.transport import Learn

_JSON = "application/json"
# Longer bodies are handed over in pieces, so that copying one does not hold up the loop.
_ONE_PIECE = 1 << 20
# Far above what a model can write, and far below what a server gone mad can send in the time of an attempt.
_MOST_BYTES = 16 << 20


class _TooLongError(Exception):
    """Raised when an answer has more bytes than any should."""


@dataclass(frozen=True, slots=True)
class _Response:
    """What came back, read whole."""

    status: int
    headers: Mapping[str, str]
    raw_headers: tuple[tuple[bytes, bytes], ...]
    content: bytes


class OpenAITransport:
    """Chat completions at a URL; `headers` go with each request."""

    def __init__(self, settings: EndpointSettings, learn: Learn, url: str, headers: Mapping[str, str]) -> None:
        self._settings = settings
        self._learn = learn
        self._url = yarl.URL(url, encoded=True)
        self._headers = {"Accept": _JSON, "Content-Type": _JSON, **headers}
        self._proxy = _proxy_for(url)
        self._session: aiohttp.ClientSession | None = None
        self._as_text = partial(without_secrets, secrets=settings.secrets)

    async def open(self) -> None:
        """Make ready; connections are opened as they are needed. The endpoint's limiter bounds how many."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def encode(self, request: ChatRequest) -> bytes:
        """The JSON of `POST /chat/completions`."""
        able = self._settings.capabilities
        return fit(request, able).body(limit_name=able.limit_name, system_role=able.system, thinking=able.thinking)

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Answer | Fault:
        """Post a body; every way in which endpoint or network can fail comes back as a fault."""
        started = loop_time()
        try:
            response = await self._post(self._url, body, headers)
        except _TooLongError:
            return body_fault(f"the reply is longer than {_MOST_BYTES >> 20} MiB", "")
        except NETWORK_ERRORS as error:
            if (
                isinstance(error, aiohttp.ClientHttpProxyError)
                and error.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
            ):
                return status_fault(error.status, "")
            elapsed = loop_time() - started
            return connection_fault(error, elapsed=elapsed, connect_timeout=self._settings.connect_timeout)
        request_id = self._note_headers(response)
        if not 200 <= response.status < 300:
            content, headers = response.content, response.headers
            return refusal(response.status, headers, content, self._settings.secrets, request_id=request_id)
        return read_answer(response.content, request_id, self._as_text)

    async def _post(self, url: yarl.URL, body: bytes, headers: Mapping[str, str]) -> _Response:
        """Post a body and read the answer whole. Raises NETWORK_ERRORS and _TooLongError."""
        assert self._session is not None  # an endpoint opens its transport before it asks
        response = await self._session.post(
            url,
            data=aiohttp.BytesPayload(body) if len(body) < _ONE_PIECE else io.BytesIO(body),
            headers={**headers, **self._headers},
            allow_redirects=False,
            proxy=self._proxy,
        )
        return _Response(response.status, response.headers, response.raw_headers, await _read(response))

    async def count_tokens(self, body: bytes) -> int | None:
        """Ask vLLM's `/tokenize`, which lies beside `/v1`."""
        request = orjson.loads(body)
        asked = orjson.dumps({"model": request["model"], "messages": request["messages"]})
        url = yarl.URL(self._settings.base_url.removesuffix("/v1") + "/tokenize", encoded=True)
        try:
            response = await self._post(url, asked, {})
        except (*NETWORK_ERRORS, _TooLongError):
            return None
        document = parse_json(response.content)
        return count(document.get("count")) or None if isinstance(document, dict) else None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _note_headers(self, response: _Response) -> str:
        """Learn from the rate limits and find the request id, in one pass over what is slow to look up by name."""
        noted = {
            name.lower().decode("latin-1"): value.decode("latin-1")
            for name, value in response.raw_headers
            if name[:3].lower() == b"x-r"
        }
        if any(name.startswith(HEADER_PREFIX) for name in noted):
            self._learn(noted)
        return noted.get("x-request-id", "")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body. Read to its end, or broken off, a response has given its connection back."""
    blocks: list[bytes] = []
    size = 0
    try:
        while size <= _MOST_BYTES and (block := await response.content.readany()):
            blocks.append(block)
            size += len(block)
    except BaseException:
        response.close()
        raise
    if size > _MOST_BYTES:
        response.close()
        raise _TooLongError
    return b"".join(blocks)


def make_transport(settings: EndpointSettings, learn: Learn) -> OpenAITransport:
    """A transport that takes nothing from the environment but the proxy."""
    headers = {**dict(settings.headers), "Authorization": f"Bearer {settings.api_key or PLACEHOLDER_KEY}"}
    return OpenAITransport(settings, learn, settings.base_url + COMPLETIONS_PATH, headers)


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address, looked up once instead of at every request.

    None for this machine itself: to a proxy elsewhere, loopback is another one.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{named}" if named and "://" not in named else named
