"""Faults on request: every way in which a model endpoint is known to misbehave.

Owns the choice of a fault, which hangs on the request's content and on how often that content has been asked, and
what each fault does to a reply. So a run with faults can be repeated, and a retry may fare better.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from types import MappingProxyType

import orjson
from aiohttp import web

from runtime.simulation.chance import Chance


class Fault(StrEnum):
    """A way to misbehave; the value names it in options and records."""

    RATE_LIMIT = "rate-limit"  # 429 without Retry-After
    RATE_LIMIT_SECONDS = "rate-limit-seconds"  # 429 with Retry-After in seconds
    RATE_LIMIT_DATE = "rate-limit-date"  # 429 with Retry-After as a date
    SERVER_ERROR = "server-error"  # 500
    BAD_GATEWAY = "bad-gateway"  # 502 with a page of HTML
    UNAVAILABLE = "unavailable"  # 503
    RESET_BEFORE = "reset-before"  # the connection is reset before any answer
    RESET_DURING = "reset-during"  # the connection is reset in the middle of the body
    STALL = "stall"  # nothing ever comes
    DRIP = "drip"  # the body comes a few bytes at a time
    TRUNCATED = "truncated"  # a complete response whose JSON ends in the middle
    MALFORMED = "malformed"  # a complete response that is no JSON
    SHAPELESS = "shapeless"  # JSON that is no chat completion
    EMPTY = "empty"  # a chat completion with nothing in it
    NO_MODEL = "no-model"  # 404
    UNAUTHORIZED = "unauthorized"  # 401
    CONTEXT_LENGTH = "context-length"  # 400, code context_length_exceeded
    CONTENT_FILTER = "content-filter"  # 400, code content_filter
    FILTERED = "filtered"  # 200, finish_reason content_filter


_ERRORS: Mapping[Fault, tuple[int, str, str | None, str]] = {
    Fault.RATE_LIMIT: (429, "rate_limit_error", "rate_limit_exceeded", "Rate limit reached, try again later."),
    Fault.RATE_LIMIT_SECONDS: (429, "rate_limit_error", "rate_limit_exceeded", "Rate limit reached."),
    Fault.RATE_LIMIT_DATE: (429, "rate_limit_error", "rate_limit_exceeded", "Rate limit reached."),
    Fault.SERVER_ERROR: (500, "server_error", None, "The server had an error while processing your request."),
    Fault.UNAVAILABLE: (503, "server_error", "overloaded", "The engine is currently overloaded."),
    Fault.NO_MODEL: (404, "invalid_request_error", "model_not_found", "The model does not exist."),
    Fault.UNAUTHORIZED: (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    Fault.CONTEXT_LENGTH: (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. Please reduce the length of the messages.",
    ),
    Fault.CONTENT_FILTER: (
        400,
        "invalid_request_error",
        "content_filter",
        "The response was filtered due to the prompt triggering a content management policy.",
    ),
}
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><center>502 Bad Gateway</center></body></html>"


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Which faults to commit how often.

    `rates` are probabilities whose sum is at most 1. `models` (all when empty) and `attempts` (all when None; 1: only
    the first time that a content is asked) limit where. `retry_after` and `drip` (a whole body) are seconds, `stall`
    the most seconds for which nothing comes.
    """

    rates: Mapping[Fault, float] = field(default_factory=lambda: MappingProxyType({}))
    models: frozenset[str] = frozenset()
    attempts: int | None = None
    retry_after: float = 1.0
    drip: float = 5.0
    stall: float = 3600.0

    def __post_init__(self) -> None:
        """Raise ValueError for rates that are no probabilities."""
        if any(rate < 0 for rate in self.rates.values()) or sum(self.rates.values()) > 1 + 1e-9:
            raise ValueError("the rates of the faults must be positive and add up to 1 at most")

    def choose(self, digest: str, attempt: int, model: str) -> Fault | None:
        """Return the fault for a content that is asked for the given time (from 1), if any."""
        if not self.rates or (self.models and model not in self.models):
            return None
        if self.attempts is not None and attempt > self.attempts:
            return None
        point = Chance("fault", digest, attempt).unit()
        for fault in Fault:
            point -= self.rates.get(fault, 0.0)
            if point < 0:
                return fault
        return None


def error_response(status: int, kind: str, code: str | None, message: str) -> web.Response:
    """Return an error in the OpenAI form."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return web.Response(status=status, body=orjson.dumps({"error": error}), content_type="application/json")


async def commit(fault: Fault, plan: FaultPlan, request: web.Request, body: bytes) -> web.StreamResponse:
    """Misbehave instead of answering with `body`; what is returned has been or will be sent."""
    if fault in _ERRORS:
        return _refusal(fault, plan)
    if fault is Fault.BAD_GATEWAY:
        return web.Response(status=502, body=_HTML, content_type="text/html")
    if fault is Fault.RESET_BEFORE:
        return await _reset(request)
    if fault is Fault.RESET_DURING:
        return await _reset(request, body)
    if fault is Fault.STALL:
        await asyncio.sleep(plan.stall)
        return web.Response(status=504)
    if fault is Fault.DRIP:
        return await _drip(request, body, plan.drip)
    return web.Response(body=_spoilt(fault, body), content_type="application/json")


def _refusal(fault: Fault, plan: FaultPlan) -> web.Response:
    response = error_response(*_ERRORS[fault])
    if fault is Fault.RATE_LIMIT_SECONDS:
        response.headers["Retry-After"] = f"{plan.retry_after:g}"
    elif fault is Fault.RATE_LIMIT_DATE:
        until = datetime.now(UTC) + timedelta(seconds=plan.retry_after)
        response.headers["Retry-After"] = format_datetime(until, usegmt=True)
    return response


def _spoilt(fault: Fault, body: bytes) -> bytes:
    if fault is Fault.TRUNCATED:
        return body[: len(body) * 2 // 3]
    if fault is Fault.MALFORMED:
        return b"{'id': None, choices: [" + body[:40]
    if fault is Fault.SHAPELESS:
        return b'{"object":"chat.completion","result":"ok"}'
    reply = orjson.loads(body)
    reply["choices"][0]["message"]["content"] = ""
    reply["usage"]["completion_tokens"] = 0
    if fault is Fault.FILTERED:
        reply["choices"][0]["finish_reason"] = "content_filter"
    return orjson.dumps(reply)


async def _reset(request: web.Request, body: bytes = b"") -> web.StreamResponse:
    """Reset the connection, after half of the body where there is one; the handler is cancelled by it."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    if body:
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        # Without lingering the kernel sends RST, as a crashed server does; else the client would see a proper end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    await asyncio.sleep(5)
    return response


async def _drip(request: web.Request, body: bytes, seconds: float) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    pieces = 40
    size = len(body) // pieces + 1
    for start in range(0, len(body), size):
        await response.write(body[start : start + size])
        await asyncio.sleep(seconds / pieces)
    await response.write_eof()
    return response
