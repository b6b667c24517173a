"""Who may talk to the API: the holder of the token where one is set, no code of rollouts, and no foreign web page.

A page that a user of this machine opens can send requests to loopback, under a name of its own that was made to point
there (DNS rebinding) or as a simple cross-site request. So on loopback the Host header must name loopback, a foreign
Origin is refused, and bodies must come as application/json, which a browser does not send unasked.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from anyio.to_thread import run_sync

from runtime.api.peers import peer_uid
from runtime.loopback import is_loopback
from runtime.sandbox import code_uids

OPEN_PATHS = ("/healthz",)  # a supervisor may look without a token
_BEARER = "Bearer "


def make_guard(*, token: str | None) -> Middleware:
    """The middleware that lets requests through or refuses them; without a token it is for loopback."""

    uids = code_uids()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_open = request.path in OPEN_PATHS
        if token is None and uids is not None and not is_open and not await _is_a_persons(request, uids):
            raise web.HTTPForbidden(reason="code of rollouts may not talk to the daemon")
        if token is None and not is_loopback(_host(request)):
            raise web.HTTPForbidden(reason="the Host header names another machine")
        if not _is_own_origin(request):
            raise web.HTTPForbidden(reason="requests of other sites are refused")
        if token is not None and not is_open and not _holds(request, token):
            raise web.HTTPUnauthorized(
                reason="the token is missing or wrong", headers={hdrs.WWW_AUTHENTICATE: "Bearer"}
            )
        if request.method == hdrs.METH_POST and request.can_read_body and request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(reason="send the body as application/json")
        # A few kilobytes can be gigabytes, and unpacking them would be the event loop's work.
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise web.HTTPUnsupportedMediaType(reason="send the body as it is: no Content-Encoding is taken")
        return await handler(request)

    return guard


async def _is_a_persons(request: web.Request, uids: range) -> bool:
    """Whether a request comes from a process that may, where code runs under user ids of its own."""
    if request.transport is None:
        return False
    uid = await run_sync(peer_uid, request.transport)
    return uid is not None and uid not in uids


def _host(request: web.Request) -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


def _is_own_origin(request: web.Request) -> bool:
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or urlsplit(origin).netloc == request.host


def _holds(request: web.Request, token: str) -> bool:
    # Bytes, because text that is not ASCII cannot be compared in constant time.
    given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
    return hmac.compare_digest(given, f"{_BEARER}{token}".encode())
