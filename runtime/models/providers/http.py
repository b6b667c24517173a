"""What transports over HTTP share: the client, and reading refusals without keeping secrets.

The client is the `openai` package's over aiohttp for all of them: the SDKs sit on one HTTP library, whose default
transport makes a fraction of the calls a second. Their own retries and timeouts are off, because two layers of
either would multiply.
"""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
import httpx2
from openai import DefaultAioHttpClient

from runtime.models.faults import Fault, status_fault
from runtime.models.retry import retry_after

NETWORK_ERRORS = (httpx2.HTTPError, aiohttp.ClientError, OSError)
_KEEPALIVE_SECONDS = 4.0  # below the 5 s after which uvicorn, under most local servers, closes idle connections
_MOST_CONNECTIONS = 4096
_LONGEST_TEXT = 100_000


def make_timeout(connect_timeout: float) -> httpx2.Timeout:
    """Timeouts for an SDK.

    Attempts are timed by one scope around the whole of each; of the SDK's timeouts only connecting is left, so that
    what it calls a timeout later is a broken connection (see `faults.connection_fault`).
    """
    return httpx2.Timeout(None, connect=connect_timeout)


def make_http_client(timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    """An HTTP client over aiohttp; the endpoint's limiter is what bounds the requests, and its limit may grow."""
    limits = httpx2.Limits(max_connections=_MOST_CONNECTIONS, keepalive_expiry=_KEEPALIVE_SECONDS)
    return DefaultAioHttpClient(limits=limits, timeout=timeout)


def without_secrets(body: bytes, secrets: Sequence[str]) -> str:
    """An answer as text for an error: bounded, and without secrets that it may echo."""
    text = body[:_LONGEST_TEXT].decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return text


def refusal(response: httpx2.Response, secrets: Sequence[str], *, request_id: str) -> Fault:
    """The fault that an answer with an error status stands for."""
    return status_fault(
        response.status_code,
        without_secrets(response.content, secrets),
        request_id=request_id,
        retry_after=retry_after(response.headers),
    )
