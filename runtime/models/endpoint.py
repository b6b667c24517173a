"""One model endpoint: sends chat requests and brings back a reply or a sorted error.

Guarantees of `Endpoint.complete`:

- it ends by the call's deadline, back-off and waiting for a slot included, however the server behaves;
- an attempt that broke is repeated as its fault allows, and no fault comes back looking like a reply;
- its slot is given back on every way out, cancellation included;
- nothing it raises holds the key, in text or by reference.

Requests go through the `openai` SDK on its aiohttp transport, as serialised bytes and back as a plain response:
its typed `create` spends more time on walking messages and building models than all the rest takes. The SDK's own
retries and timeouts are off, because two layers of either would multiply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import aiohttp
import anyio
import httpx2
from openai import APIStatusError, AsyncOpenAI, DefaultAioHttpClient, OpenAIError

from runtime.models.bodies import Answer, read_answer
from runtime.models.chat import ChatReply, ChatRequest
from runtime.models.errors import EndpointStopped, EndpointUnavailable, ModelError
from runtime.models.faults import REFUSED, Fault, Reaction, connection_fault, status_fault, timeout_fault
from runtime.models.limiter import Limiter, Limiting
from runtime.models.rates import HEADER_PREFIX, RateGate
from runtime.models.retry import backoff_delay, retry_after
from runtime.models.settings import COMPLETIONS_PATH, PLACEHOLDER_KEY, EndpointSettings
from runtime.models.window import AdaptiveWindow, FixedWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from runtime.models.limiter import Permit

_IMMEDIATE_RETRIES = 2
_KEEPALIVE_SECONDS = 4.0  # below the 5 s after which uvicorn, under most local servers, closes idle connections
_CHARS_PER_TOKEN = 4
_LONGEST_TEXT = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSnapshot:
    """An endpoint at one moment. `refused`, `retried` and `calls` count from its start.

    `calls` are calls of `complete`, `retried` their attempts beyond the first, `refused` the answers with which
    the server shed load (429, 503, 529).
    """

    in_flight: int
    limit: int
    waiting: int
    limiting: Limiting
    refused: int
    retried: int
    calls: int
    stopped: bool


@dataclass(slots=True)
class _Call:
    """One call of `complete` on its way."""

    body: bytes
    headers: dict[str, str]
    deadline: float
    tokens: int
    keep: Callable[[ChatReply], None] | None
    attempts: int = 0
    immediate: int = 0
    delayed: int = 0
    fault: Fault | None = None


class Endpoint:
    """One base URL with its key, limits and connections; an async context manager that may be entered once."""

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        adaptive = settings.max_in_flight == "adaptive"
        most = settings.ceiling if settings.max_in_flight == "adaptive" else settings.max_in_flight
        self._limiter = Limiter(
            window=AdaptiveWindow(ceiling=most) if adaptive else FixedWindow(most),
            rates=RateGate(
                requests_per_minute=settings.requests_per_minute, tokens_per_minute=settings.tokens_per_minute
            ),
        )
        self._client = _make_client(settings, connections=most)
        key = settings.api_key or PLACEHOLDER_KEY
        # Set on each request, where neither the SDK's environment variables nor its defaults can overrule it.
        self._headers = {**dict(settings.headers), "Authorization": f"Bearer {key}"}
        self._stopped: Fault | None = None
        self._calls = self._retried = self._refused = 0

    def __repr__(self) -> str:
        return f"Endpoint({self.settings.name!r}, {self.settings.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._limiter.close()
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 5.0):
            await self._client.close()

    def snapshot(self) -> EndpointSnapshot:
        """Look at the endpoint's load and at what limits it right now."""
        limiter = self._limiter
        return EndpointSnapshot(
            in_flight=limiter.in_flight,
            limit=limiter.window.limit,
            waiting=limiter.waiting,
            limiting=limiter.limiting(),
            refused=self._refused,
            retried=self._retried,
            calls=self._calls,
            stopped=self._stopped is not None,
        )

    async def complete(
        self,
        request: ChatRequest,
        *,
        headers: Mapping[str, str],
        keep: Callable[[ChatReply], None] | None = None,
    ) -> ChatReply:
        """Ask for one completion; `headers` (trace headers) go along, percent-encoded where HTTP needs it.

        `keep` is called with the reply as soon as there is one, before anything that could be cancelled: a
        caller that must not lose what has been paid for puts it away there. A call that is cancelled ends
        once the attempt on its way has ended, within that attempt's timeout, and starts no other.

        Raises EndpointUnavailable, EndpointStopped, RequestRefused, ContextOverflow or ContentFiltered.
        """
        self._calls += 1
        if self._stopped is not None:
            raise self._error(self._stopped, attempts=0)
        body = request.body()
        call = _Call(
            body=body,
            headers=self._request_headers(headers),
            deadline=anyio.current_time() + self.settings.deadline,
            tokens=len(body) // _CHARS_PER_TOKEN + (request.max_tokens or 0),
            keep=keep,
        )
        while True:
            reply = await self._attempt(call)
            if reply is not None:
                return reply
            delay = self._delay(call)
            if delay > 0:
                await anyio.sleep(delay)
            self._retried += 1

    async def _attempt(self, call: _Call) -> ChatReply | None:
        """One attempt with its wait for a slot: a reply, or None with the call's fault set. Raises the final ones."""
        permit = await self._limiter.acquire(deadline=call.deadline, tokens=call.tokens, again=call.attempts > 0)
        if permit is None:
            raise self._out_of_time(call)
        try:
            if self._stopped is not None:
                raise self._error(self._stopped, attempts=call.attempts)
            call.attempts += 1
            started = anyio.current_time()
            # A request that is out will be billed: its reply is waited for, within the attempt's timeout.
            with anyio.CancelScope(shield=True):
                answer = await self._send(call, started)
            latency = anyio.current_time() - started
            if isinstance(answer, Answer):
                reply = self._reply(answer, latency, call.attempts)
                if call.keep is not None:
                    call.keep(reply)
                permit.succeeded(latency, answer.usage.prompt + answer.usage.completion)
                return reply
            self._note_fault(answer, call, permit)
            return None
        finally:
            permit.release()

    async def _send(self, call: _Call, started: float) -> Answer | Fault:
        """Send the request; every way in which endpoint or network can fail comes back as a fault."""
        settings = self.settings
        until = min(started + settings.timeout, call.deadline)
        broken: Exception | None = None
        with anyio.CancelScope(deadline=until) as scope:
            try:
                response = await self._client.post(
                    COMPLETIONS_PATH,
                    content=call.body,
                    cast_to=httpx2.Response,
                    options={"headers": call.headers, "security": {}, "follow_redirects": False},
                )
                return self._read(response)
            except APIStatusError as error:
                return self._read_refusal(error.response)
            except (OpenAIError, httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
                broken = error
        if scope.cancelled_caught or broken is None:
            return timeout_fault(until - started, overload=until - started >= settings.timeout)
        elapsed = anyio.current_time() - started
        return connection_fault(broken, elapsed=elapsed, connect_timeout=settings.connect_timeout)

    def _read(self, response: httpx2.Response) -> Answer | Fault:
        headers = self._note_headers(response)
        return read_answer(response.content, headers.get("x-request-id", ""), self._text)

    def _read_refusal(self, response: httpx2.Response) -> Fault:
        headers = self._note_headers(response)
        return status_fault(
            response.status_code,
            self._text(response.content),
            request_id=headers.get("x-request-id", ""),
            retry_after=retry_after(response.headers),
        )

    def _note_headers(self, response: httpx2.Response) -> dict[str, str]:
        """Collect the request id and the rate limits, in one pass over what is slow to look up by name."""
        noted = {
            name.lower().decode("latin-1"): value.decode("latin-1")
            for name, value in response.headers.raw
            if name[:3].lower() == b"x-r"
        }
        if any(name.startswith(HEADER_PREFIX) for name in noted):
            self._limiter.rates.learn(noted, anyio.current_time())
        return noted

    def _note_fault(self, fault: Fault, call: _Call, permit: Permit) -> None:
        """Act on a fault, before its slot goes to the next call; raises where no attempt can follow."""
        call.fault = fault
        if fault.retry_after:
            self._limiter.pause(fault.retry_after)
        if fault.status in REFUSED:
            self._refused += 1
        if fault.error is EndpointStopped:
            self._stopped = fault
        if fault.overload:
            permit.refused()
        if fault.reaction is Reaction.NEVER or call.attempts >= self.settings.attempts:
            raise self._error(fault, attempts=call.attempts)

    def _delay(self, call: _Call) -> float:
        """Seconds to back off after the call's fault; raises if its deadline leaves no room for another attempt."""
        settings, fault = self.settings, call.fault
        asked = fault.retry_after or 0.0 if fault is not None else 0.0
        if fault is not None and fault.reaction is Reaction.NOW and call.immediate < _IMMEDIATE_RETRIES:
            call.immediate += 1
            return 0.0
        call.delayed += 1
        delay = backoff_delay(call.delayed, base=settings.backoff, most=settings.backoff_max)
        if anyio.current_time() + max(delay, asked) >= call.deadline:
            raise self._out_of_time(call)
        # What the endpoint asked for is not slept here: the limiter's pause holds this call with all the others.
        return delay

    def _reply(self, answer: Answer, latency: float, attempts: int) -> ChatReply:
        return ChatReply(
            content=answer.content,
            reasoning=answer.reasoning,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            latency=latency,
            attempts=attempts,
            endpoint=self.settings.name,
            request_id=answer.request_id,
        )

    def _error(self, fault: Fault, *, attempts: int) -> ModelError:
        reason = fault.reason
        if fault.error is EndpointStopped:
            what = "check" if self.settings.api_key else "no key is set: set"
            reason += f"; {what} {self.settings.key_place} and start again"
        return fault.to_error(self.settings.name, attempts=attempts, reason=reason)

    def _out_of_time(self, call: _Call) -> ModelError:
        name, limit = self.settings.name, f"the call's deadline of {self.settings.deadline:g} s"
        if call.fault is None:
            paused = self._limiter.paused_for()
            reason = f"it asked to be left alone for {paused:.0f} s" if paused else f"no slot within {limit}"
            return EndpointUnavailable(reason, endpoint=name, retry_after=paused or None)
        reason = f"{call.fault.reason}; {limit} leaves no time to ask again"
        return call.fault.to_error(name, attempts=call.attempts, reason=reason)

    def _request_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        merged = {
            name: value if value.isascii() and value.isprintable() else quote(value, safe=" ")
            for name, value in headers.items()
        }
        merged.update(self._headers)
        return merged

    def _text(self, body: bytes) -> str:
        """An answer as text for an error: bounded, and without secrets that it may echo."""
        text = body[:_LONGEST_TEXT].decode("utf-8", "replace")
        for secret in self.settings.secrets:
            text = text.replace(secret, "[key]")
        return text


def _make_client(settings: EndpointSettings, *, connections: int) -> AsyncOpenAI:
    # Attempts are timed by one scope around the whole of each; of the SDK's timeouts only connecting is left,
    # so that what it calls a timeout later is a broken connection (see faults.connection_fault).
    timeout = httpx2.Timeout(None, connect=settings.connect_timeout)
    limits = httpx2.Limits(max_connections=connections, keepalive_expiry=_KEEPALIVE_SECONDS)
    client = AsyncOpenAI(
        api_key=settings.api_key or PLACEHOLDER_KEY,
        base_url=settings.base_url,
        max_retries=0,
        timeout=timeout,
        http_client=DefaultAioHttpClient(limits=limits, timeout=timeout),
    )
    client.organization = client.project = None
    return client
