"""A model server over real HTTP that misbehaves on request.

Behaviours are coroutines from a request to a response; a server goes through a script of them and then repeats
the last one, or asks a function which one is next. Requests are recorded as they came.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat

import anyio
import orjson
from aiohttp import web

from runtime.models.chat import ChatRequest
from runtime.models.endpoint import Endpoint
from runtime.models.settings import EndpointSettings
from runtime.models.trouble import Tell, silent
from store.messages import Message

KEY = "sk-very-secret-0123456789"
REQUEST = ChatRequest(model="m", messages=(Message("user", "hello"),), temperature=0.0, seed=1)

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


def completion(content: object = "hi", finish_reason: object = "stop", **message: object) -> dict[str, object]:
    """A whole, valid completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


def answer(
    document: object, status: int = 200, headers: dict[str, str] | None = None, content_type: str = "application/json"
) -> Behaviour:
    """Answer with this document (bytes as they are, else as JSON)."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)

    async def behave(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers, content_type=content_type)

    return behave


def failure(
    status: int, message: str = "no", code: str | None = None, headers: dict[str, str] | None = None
) -> Behaviour:
    """Answer with an error in OpenAI's form."""
    return answer({"error": {"message": message, "type": "error", "code": code}}, status, headers)


async def reset_before(request: web.Request) -> web.StreamResponse:
    """Drop the connection instead of answering."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def close_before(request: web.Request) -> web.StreamResponse:
    """Close the connection in good order instead of answering."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def reset_during(request: web.Request) -> web.StreamResponse:
    """Drop the connection in the middle of the body."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"id": "chatcmpl-1", ')
    assert request.transport is not None
    request.transport.abort()
    return response


async def garbage(request: web.Request) -> web.StreamResponse:
    """Speak something that is not HTTP."""
    assert request.transport is not None
    request.transport.write(b"\x00\x01 what is this\r\n\r\n")
    request.transport.close()
    return web.Response()


async def stall(_: web.Request) -> web.StreamResponse:
    """Never answer."""
    await anyio.sleep_forever()
    raise AssertionError


async def drip(request: web.Request) -> web.StreamResponse:
    """Send a body that never ends, a byte at a time."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await anyio.sleep(0.02)


async def flood(request: web.Request) -> web.StreamResponse:
    """Send a body that never ends, as fast as it is read."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def zeros(request: web.Request) -> web.StreamResponse:
    """Send a few kilobytes that are a gigabyte when they are inflated."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
    await response.prepare(request)
    packer = zlib.compressobj(wbits=31)
    for _ in range(1024):
        await response.write(packer.compress(bytes(1 << 20)))
    await response.write_eof(packer.flush())
    return response


async def stall_in_body(request: web.Request) -> web.StreamResponse:
    """Send half a body, then nothing."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    return await stall(request)


GOOD = answer(completion())
HTML = answer(b"<html><body>Bad gateway</body></html>", content_type="text/html")


@dataclass(slots=True)
class ModelServer:
    """A running server; `requests` are the bodies that came, `headers` theirs, `busy` how many are being served."""

    url: str
    behaviours: Iterator[Behaviour]
    requests: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    busy: int = 0
    site: web.TCPSite | None = None

    async def stop_listening(self) -> None:
        """Take no new connections; those that there are stay."""
        assert self.site is not None
        await self.site.stop()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.read())
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        behaviour = next(self.behaviours)
        self.busy += 1
        try:
            return await behaviour(request)
        finally:
            self.busy -= 1


@asynccontextmanager
async def serve(
    *script: Behaviour, choose: Callable[[], Behaviour] | None = None, port: int = 0
) -> AsyncIterator[ModelServer]:
    """Run a server that behaves by script, its last entry for ever, or as `choose` says."""
    behaviours = iter(choose, None) if choose is not None else chain(script, repeat(script[-1] if script else GOOD))
    server = ModelServer(url="", behaviours=behaviours)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        server.site = web.TCPSite(runner, "127.0.0.1", port)
        await server.site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield server
    finally:
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 5):
            await runner.cleanup()


def endpoint_for(
    url: str,
    *,
    attempts: int = 3,
    timeout: float = 5.0,
    deadline: float = 20.0,
    max_in_flight: int = 64,
    api_key: str | None = KEY,
    tell: Tell = silent,
) -> Endpoint:
    """An endpoint with a short back-off."""
    return Endpoint(
        EndpointSettings(
            name="policy",
            base_url=url,
            api_key=api_key,
            api_key_env="POLICY_KEY",
            attempts=attempts,
            timeout=timeout,
            deadline=deadline,
            backoff=0.001,
            backoff_max=0.01,
            max_in_flight=max_in_flight,
        ),
        tell,
    )
