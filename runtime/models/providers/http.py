"""What transports over HTTP share: how connections are kept, and reading refusals without keeping secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aiohttp

from runtime.models.faults import Fault, status_fault
from runtime.models.retry import retry_after

# UnicodeError: the name of a host cannot be one.
NETWORK_ERRORS = (aiohttp.ClientError, OSError, UnicodeError)
KEEPALIVE_SECONDS = 4.0  # below the 5 s after which uvicorn, under most local servers, closes idle connections
MOST_CONNECTIONS = 4096
_LONGEST_TEXT = 100_000


def without_secrets(body: bytes, secrets: Sequence[str]) -> str:
    """An answer as text for an error: bounded, and without secrets that it may echo."""
    text = body[:_LONGEST_TEXT].decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return text


def refusal(
    status: int, headers: Mapping[str, str], content: bytes, secrets: Sequence[str], *, request_id: str
) -> Fault:
    """The fault that an answer with a status of failure stands for."""
    text = without_secrets(content, secrets)
    return status_fault(status, text, request_id=request_id, retry_after=retry_after(headers))
