"""Local servers that speak a provider's protocol as strictly as the provider: what it would refuse, they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from aiohttp import web

from runtime.models.chat import ChatRequest
from runtime.models.endpoint import Endpoint
from runtime.models.settings import EndpointSettings
from store.messages import Message, image_url
from tests.models.server import KEY, Behaviour

REQUEST = ChatRequest(
    model="m",
    messages=(
        Message("system", "Be brief."),
        Message("user", "hello"),
        Message("assistant", ""),
        Message("user", "?"),
    ),
    temperature=0.2,
    top_p=0.9,
    max_tokens=100,
    seed=5,
    stop=("END",),
)

PICTURE = image_url(b"\x89PNG picture", "png")
SEEING = replace(REQUEST, messages=(Message("user", "what is it?", images=(PICTURE,)),), stop=())


@dataclass(slots=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found


# What a client says of itself, and what its HTTP library adds.
_OF_THE_CLIENT = ("x-stainless-", "user-agent", "accept-encoding", "connection", "host", "content-length")


def wire(asked: Asked) -> tuple[object, ...]:
    """A request as far as a server acts on it."""
    headers = {name: value for name, value in asked.headers.items() if not name.startswith(_OF_THE_CLIENT)}
    return asked.method, asked.path, asked.query, headers, asked.document


Speaker = Callable[[Asked], web.StreamResponse | Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Provider:
    """A running server; `script` holds behaviours that come before what it says by itself."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    script: list[Behaviour] = field(default_factory=list)


@asynccontextmanager
async def speaking(speaker: Callable[[Asked], web.Response], *script: Behaviour) -> AsyncIterator[Provider]:
    """Run a server that follows the script, then answers each request, on any path, with what `speaker` says."""
    provider = Provider(url="", script=list(script))

    async def handle(request: web.Request) -> web.StreamResponse:
        asked = Asked(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
        )
        provider.asked.append(asked)
        if provider.script:
            return await provider.script.pop(0)(request)
        return speaker(asked)

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield provider
    finally:
        await runner.cleanup()


def endpoint(url: str, **settings: Any) -> Endpoint:
    """An endpoint with a short back-off."""
    quick: dict[str, Any] = {
        "name": "expert",
        "api_key": KEY,
        "api_key_env": "EXPERT_KEY",
        "attempts": 3,
        "timeout": 5.0,
        "deadline": 20.0,
        "backoff": 0.001,
        "backoff_max": 0.01,
        "max_in_flight": 8,
    }
    return Endpoint(EndpointSettings(base_url=url, **{**quick, **settings}))


def reply(document: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A response in JSON."""
    return web.Response(body=orjson.dumps(document), status=status, headers=headers, content_type="application/json")
