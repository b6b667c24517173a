"""Where the API listens, and on what terms: loopback by default, any other address only with a token."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator, Mapping
from ipaddress import ip_address
from typing import cast

from aiohttp import web

from runtime.api.app import make_app
from runtime.api.live import Live
from runtime.api.token import api_token
from runtime.config.settings import Api
from runtime.errors import ConfigError
from runtime.loopback import is_loopback

_MIB = 1 << 20
# Requests under way when the daemon ends have this long, in seconds.
_LAST_REQUESTS_S = 2.0
# Connections that wait to be accepted. With no descriptor left asyncio tries, and complains, as many times in a row.
_BACKLOG = 16


@contextlib.asynccontextmanager
async def listening(live: Live, settings: Api, environ: Mapping[str, str]) -> AsyncIterator[str]:
    """Serve the API while the block runs; its base URL for this machine.

    Raises:
        ConfigError: the address cannot be listened on, or would be open to others without a token.
    """
    token = api_token(settings, environ)
    if token is None and not is_loopback(settings.host):
        named = settings.token_env or "a variable that api.token_env names"
        raise ConfigError(
            f"api.host is {settings.host}, which others can reach, and no token is set: "
            f"put one into {named}, or listen on 127.0.0.1"
        )
    app = make_app(live, token=token, max_body=settings.max_body_mb * _MIB)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_LAST_REQUESTS_S,
        auto_decompress=False,  # see guard.py
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG).start()
        except OSError as error:
            raise ConfigError(_refusal(settings, error)) from error
        yield _local_url(settings.host, cast("tuple[str, int]", runner.addresses[0])[1])
    finally:
        await runner.cleanup()


def _refusal(settings: Api, error: OSError) -> str:
    place = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place} is taken by another program, perhaps the daemon of another data directory: "
            "set api.port, to 0 for any free one"
        )
    return f"the API cannot listen on {place}: {error.strerror}"


def _local_url(host: str, port: int) -> str:
    """How a client on this machine reaches a listener on `host`."""
    if host == "localhost":
        return f"http://localhost:{port}"
    address = ip_address(host)
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"
