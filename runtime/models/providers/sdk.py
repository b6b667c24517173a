"""What transports through SDKs on httpx2 share: their HTTP client.

It is the `openai` package's over aiohttp, because the library's default transport makes a fraction of the calls a
second. The SDKs' own retries and timeouts are off, because two layers of either would multiply.
"""

from __future__ import annotations

import httpx2
from openai import DefaultAioHttpClient

from runtime.models.providers.http import KEEPALIVE_SECONDS, MOST_CONNECTIONS, NETWORK_ERRORS

SDK_NETWORK_ERRORS = (httpx2.HTTPError, *NETWORK_ERRORS)


def make_timeout(connect_timeout: float) -> httpx2.Timeout:
    """Timeouts for an SDK.

    Attempts are timed by one scope around the whole of each; of the SDK's timeouts only connecting is left, so that
    what it calls a timeout later is a broken connection (see `faults.connection_fault`).
    """
    return httpx2.Timeout(None, connect=connect_timeout)


def make_http_client(timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    """An HTTP client over aiohttp; the endpoint's limiter is what bounds the requests, and its limit may grow."""
    limits = httpx2.Limits(max_connections=MOST_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS)
    return DefaultAioHttpClient(limits=limits, timeout=timeout)
