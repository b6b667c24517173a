"""One model endpoint: sends chat requests and brings back a reply or a sorted error.

Guarantees of `Endpoint.complete`:

- its attempts begin before the call's deadline, back-off and waiting for a slot included, and each ends in the time
  of an attempt, however the server behaves: a reply that is being paid for is not given up for the deadline's sake;
- an attempt that broke is repeated as its fault allows, and no fault comes back looking like a reply;
- its slot is given back on every way out, cancellation included;
- nothing it raises holds the key, in text or by reference.

How a request is written and sent is its provider's transport; retries, limits and deadlines are the same for all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import anyio

from runtime.clock import clock_time, loop_time
from runtime.models.bodies import Answer
from runtime.models.call import Call, Keep, header_values
from runtime.models.capabilities import cut_at_stop, part_thoughts
from runtime.models.chat import ChatReply, ChatRequest
from runtime.models.context import TokenEstimate, size_of
from runtime.models.errors import (
    ContextOverflow,
    EndpointPaused,
    EndpointStopped,
    EndpointUnavailable,
    ModelError,
)
from runtime.models.faults import AWAY, REFUSED, Fault, Reaction, absence_fault, pause_fault, timeout_fault
from runtime.models.limiter import Limiter, Limiting, SentAwayError
from runtime.models.rates import RateGate
from runtime.models.retry import backoff_delay
from runtime.models.settings import EndpointSettings
from runtime.models.stop import Stop
from runtime.models.transport import make_transport
from runtime.models.trouble import Tell, Trouble, silent
from runtime.models.window import AdaptiveWindow, FixedWindow, Window

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from runtime.models.limiter import Permit

_IMMEDIATE_RETRIES = 2
_NEAR_THE_LIMIT = 0.8  # of max_input_tokens: from here on an estimate is not enough if a tokenizer can be asked
_COUNTING_SECONDS = 10.0
_COUNTING_FAILURES = 3
_FIRST_ABSENCE = 30.0
_LONGEST_ABSENCE = 300.0
ADJUSTABLE = ("max_in_flight", "requests_per_minute", "tokens_per_minute", "timeout", "deadline", "attempts")
"""Settings that may change while calls are on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSnapshot:
    """An endpoint at one moment. `refused`, `retried` and `calls` count from its start.

    `calls` are calls of `complete`, `retried` their attempts beyond the first, `refused` the answers with which
    the server shed load (429, 503, 529). Where it is `stopped`, `reason` says why, and `until` (seconds since 1970)
    is when a single call may try; else `reason` says why it brings no replies, if it has brought none for a while.
    """

    in_flight: int
    limit: int
    waiting: int
    limiting: Limiting
    refused: int
    retried: int
    calls: int
    stopped: bool
    reason: str | None = None
    until: float | None = None


class Endpoint:
    """One base URL with its key, limits and connections; an async context manager that may be entered once.

    `tell` hears, in a line, of trouble that begins and of its end. `has_replied` says that it did before this object
    was: what has replied once and is gone is waited for, and what never has may be an address that is wrong.
    """

    def __init__(self, settings: EndpointSettings, tell: Tell = silent, *, has_replied: bool = False) -> None:
        self.settings = settings
        self._limiter = Limiter(window=_window(settings), rates=_rates(settings))
        self._transport = make_transport(settings, self._learn)
        self._estimate = TokenEstimate()
        self._counting_failures = 0
        self._stop = Stop()
        self._trouble = Trouble(settings, tell)
        self._has_replied = has_replied
        self._calls = self._retried = self._refused = 0

    def __repr__(self) -> str:
        return f"Endpoint({self.settings.name!r}, {self.settings.base_url!r})"

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._limiter.close()
        with anyio.CancelScope(shield=True, deadline=loop_time() + 5.0):
            await self._transport.close()

    def adjust(self, settings: EndpointSettings) -> None:
        """Take over what is `ADJUSTABLE` of these settings, for attempts that begin from now on.

        A limit that was found, of requests in flight or by the minute, stays known unless its setting has changed. A
        refused key is tried again, and so is an endpoint that wants to be left alone.
        """
        self.ask_again()
        old, self.settings = (
            self.settings,
            replace(self.settings, **{key: getattr(settings, key) for key in ADJUSTABLE}),
        )
        if old.max_in_flight != settings.max_in_flight:
            self._limiter.replace(window=_window(settings))
        if _per_minute(old) != _per_minute(settings):
            self._limiter.replace(rates=_rates(settings))

    def snapshot(self) -> EndpointSnapshot:
        """Look at the endpoint's load and at what limits it right now."""
        limiter, stop = self._limiter, self._stop
        return EndpointSnapshot(
            in_flight=limiter.in_flight,
            limit=limiter.window.limit,
            waiting=limiter.waiting,
            limiting=limiter.limiting(),
            refused=self._refused,
            retried=self._retried,
            calls=self._calls,
            stopped=self.is_stopped,
            reason=stop.fault.reason if stop.fault else self._trouble.reason,
            until=round(time.time() + stop.pause) if stop.fault else None,
        )

    def ask_again(self) -> None:
        """Ask as usual, though a key was refused, or it wants to be left alone: somebody says that we may."""
        self._stop.lift()
        self._limiter.go_on()

    def dismiss(self) -> None:
        """Have the attempts that wait for a slot end without having been made."""
        self._limiter.dismiss()

    @property
    def is_stopped(self) -> bool:
        """Whether it refused a key, or wants to be left alone for long, and has not been found to answer since."""
        return self._stop.fault is not None

    @property
    def is_closed(self) -> bool:
        """Whether it is stopped, and no call may try now whether it still is."""
        return self._stop.is_closed

    @property
    def load(self) -> float:
        """Calls on their way or waiting, as a share of those that may be on their way."""
        return (self._limiter.in_flight + self._limiter.waiting) / self._limiter.window.limit

    @property
    def paused_for(self) -> float:
        """Seconds for which the endpoint has asked to be left alone; 0 if it has not."""
        return self._limiter.paused_for()

    def encode(self, request: ChatRequest) -> bytes:
        """Serialise a request as this endpoint is sent it; digests are taken over this."""
        return self._transport.encode(request)

    async def complete(
        self,
        request: ChatRequest,
        *,
        headers: Mapping[str, str],
        keep: Keep | None = None,
        body: bytes | None = None,
        affinity: str = "",  # noqa: ARG002 - one shape with a pool
    ) -> ChatReply:
        """Ask for one completion; `headers` (trace headers) go along, percent-encoded where HTTP needs it.

        `keep` is called with the reply as soon as there is one, before anything that could be cancelled: a
        caller that must not lose what has been paid for puts it away there. A call that is cancelled ends
        once the attempt on its way has ended, within that attempt's timeout, and starts no other.

        `body` spares work if the caller has what `encode` gives; `affinity` means nothing to a single endpoint.

        Raises EndpointUnavailable, EndpointStopped or EndpointPaused, RequestRefused, ContextOverflow or
        ContentFiltered.
        """
        call = self.begin(request, headers=headers, keep=keep, body=body)
        await self.check_length(call)
        while True:
            reply = await self.attempt(call)
            if reply is not None:
                return reply
            delay = self.back_off(call)
            if delay > 0:
                await anyio.sleep(delay)

    def begin(
        self, request: ChatRequest, *, headers: Mapping[str, str], keep: Keep | None = None, body: bytes | None = None
    ) -> Call:
        """Make ready a call whose deadline runs from now."""
        self._calls += 1
        if body is None:
            body = self.encode(request)
        able = self.settings.capabilities
        size = size_of(body, [url for each in request.messages for url in each.images] if able.images else [])
        return Call(
            body=body,
            stop=() if able.stop else request.stop,
            headers=header_values(headers),
            deadline=loop_time() + self.settings.deadline,
            size=size,
            tokens=self._estimate.of(size) + (request.max_tokens or 0),
            keep=keep,
            most_attempts=self.settings.attempts,
        )

    async def check_length(self, call: Call) -> None:
        """Raise ContextOverflow if the messages come to more than `max_input_tokens`, without asking the model."""
        most = self.settings.max_input_tokens
        tokens = self._estimate.of(call.size)
        if not most or tokens < most * _NEAR_THE_LIMIT:
            return
        counted = await self._count(call)
        if (counted or tokens) > most:
            about = f"{counted}" if counted else f"about {tokens}"
            raise ContextOverflow(
                f"the messages come to {about} tokens, and max_input_tokens is {most}", endpoint=self.settings.name
            )

    async def _count(self, call: Call) -> int | None:
        """What the endpoint's own tokenizer says, if it has one."""
        if self._counting_failures >= _COUNTING_FAILURES:
            return None
        counted = None
        with anyio.move_on_at(min(call.deadline, loop_time() + _COUNTING_SECONDS)):
            counted = await self._transport.count_tokens(call.body)
        self._counting_failures = 0 if counted else self._counting_failures + 1
        if counted:
            self._estimate.correct(call.size, counted)
        return counted

    async def attempt(self, call: Call) -> ChatReply | None:
        """One attempt with its wait for a slot: a reply, or None with the call's fault set. Raises the final ones.

        None without an attempt if the call was sent away by `dismiss`.
        """
        if not await self._stop.settled(call.deadline):
            raise self._stopped(call)
        with self._stop.trial() as is_trial:
            try:
                permit = await self._limiter.acquire(
                    deadline=call.deadline, tokens=call.tokens, again=call.attempts > 0
                )
            except SentAwayError:
                return None
            if permit is None:
                raise self._out_of_time(call)
            try:
                if self.is_stopped and not is_trial:  # since it began to wait
                    raise self._stopped(call)
                return await self._ask(call, permit, is_trial=is_trial)
            finally:
                permit.release()

    async def _ask(self, call: Call, permit: Permit, *, is_trial: bool) -> ChatReply | None:
        self._retried += call.attempts > 0
        call.attempts += 1
        started = loop_time()
        answer = await self._send(call)
        latency = loop_time() - started
        if not isinstance(answer, Answer):
            self._trouble.met(answer, begun=started)
            self._note_fault(answer, call, permit, is_trial=is_trial)
            return None
        self._has_replied = True
        reply = self._reply(answer, latency, call)
        if call.keep is not None:
            call.keep(reply)
        if is_trial:
            self._stop.lift()
        if not self.is_stopped:  # or this one was on its way before
            self._trouble.over(begun=started)
            self._heed_pause(None)
        permit.succeeded(latency, answer.usage.prompt + answer.usage.completion)
        self._estimate.correct(call.size, answer.usage.prompt)
        return reply

    async def _send(self, call: Call) -> Answer | Fault:
        """Send the request, within the time that an attempt may take."""
        seconds = min(self.settings.timeout, self.settings.deadline)
        # A request that is out will be billed, so whoever is cancelled meanwhile waits for its reply all the same.
        with anyio.move_on_after(seconds, shield=True):
            return await self._transport.send(call.body, call.headers)
        return timeout_fault(seconds, overload=seconds >= self.settings.timeout)

    def _learn(self, headers: Mapping[str, str]) -> None:
        self._limiter.rates.learn(headers, loop_time())

    def _note_fault(self, fault: Fault, call: Call, permit: Permit, *, is_trial: bool) -> None:
        """Act on a fault, before its slot goes to the next call; raises where no attempt can follow."""
        if fault.retry_after:
            self._limiter.pause(fault.retry_after)
        if fault.status in REFUSED:
            self._refused += 1
        if fault.retry_after or fault.status in REFUSED:
            fault = self._heed_pause(fault) or fault
        call.fault = fault
        if fault.error is EndpointPaused:
            raise self._stopped(call)
        if fault.error is EndpointStopped:
            self._stop.refused(fault, by_trial=is_trial)
            raise self._stopped(call)
        if fault.unreached or (fault.reaction is Reaction.NEVER and fault.usage is None):
            permit.unspent()
        if fault.overload:
            permit.refused()
        is_last = fault.reaction is Reaction.NEVER or call.attempts >= call.most_attempts
        if (is_last or is_trial) and self._is_gone(fault):
            raise self._gone(call, fault)
        if is_last:
            raise fault.to_error(self.settings.name, attempts=call.attempts)

    def _heed_pause(self, why: Fault | None) -> Fault | None:
        """Ask no more where the endpoint wants to be left alone for longer than a call may wait; the calls' fault."""
        seconds = self._limiter.left_alone_for()
        if seconds < self.settings.deadline:
            return None
        fault = pause_fault(why, clock_time(time.time() + seconds))
        if self._stop.left_alone(fault, seconds):
            self._trouble.paused(fault.reason.removeprefix("it "))
        self._limiter.dismiss()
        return fault

    def _is_gone(self, fault: Fault) -> bool:
        """Whether nobody is there any more, or only a proxy that says so, where somebody has replied before."""
        if not self._has_replied:
            return False
        # The fault may be one that the call met at another replica.
        unreached = fault.unreached and self._trouble.unreached is not None
        return unreached or (fault.status in AWAY and self._trouble.lasts)

    def _gone(self, call: Call, fault: Fault) -> ModelError:
        """Ask no more until it may have come back, less often the longer that takes; what the call ends with."""
        reason = self._trouble.reason or fault.reason
        call.fault = absence_fault(fault, reason)
        seconds = min(_LONGEST_ABSENCE, max(_FIRST_ABSENCE, self._stop.lasting))
        is_news = self._stop.left_alone(call.fault, seconds)
        if fault.unreached:
            self._trouble.left_alone(seconds)
        elif is_news:
            self._trouble.paused(f"has given {reason}; it is asked again at {clock_time(time.time() + seconds)}")
        self._limiter.dismiss()
        return self._stopped(call)

    def back_off(self, call: Call) -> float:
        """Seconds to wait after the call's fault; raises if no other attempt can follow in its time."""
        if self._stop.pause > 0:
            raise self._stopped(call)
        settings, fault = self.settings, call.fault
        asked = fault.retry_after or 0.0 if fault is not None else 0.0
        if fault is not None and fault.reaction is Reaction.NOW and call.immediate < _IMMEDIATE_RETRIES:
            call.immediate += 1
            return 0.0
        call.delayed += 1
        delay = backoff_delay(call.delayed, base=settings.backoff, most=settings.backoff_max)
        if loop_time() + max(delay, asked) >= call.deadline:
            raise self._out_of_time(call)
        # What the endpoint asked for is not slept here: the limiter's pause holds this call with all the others.
        return delay

    def _reply(self, answer: Answer, latency: float, call: Call) -> ChatReply:
        content, reasoning = part_thoughts(answer.content, answer.reasoning, self.settings.capabilities.thoughts)
        return ChatReply(
            content=cut_at_stop(content, call.stop) if call.stop else content,
            reasoning=reasoning,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            latency=latency,
            attempts=call.attempts,
            endpoint=self.settings.name,
            request_id=answer.request_id,
        )

    def _stopped(self, call: Call) -> ModelError:
        fault = self._stop.fault
        assert fault is not None  # it is asked for where there is one
        # An attempt that failed of something else before says nothing about the call's own request.
        is_own = call.fault is not None and issubclass(call.fault.error, EndpointStopped)
        advice = fault.advice or self.settings.key_advice + self.settings.key_takes_effect
        if fault.error is not EndpointPaused:
            advice += ", then `cso retry --all`"
        error = fault.to_error(
            self.settings.name, attempts=call.attempts if is_own else 0, reason=f"{fault.reason}; {advice}"
        )
        error.retry_after = self._stop.pause
        if isinstance(error, EndpointStopped):
            error.raised = loop_time()
        if isinstance(error, EndpointPaused):
            error.lasting = self._stop.lasting
        return error

    def _out_of_time(self, call: Call) -> ModelError:
        if call.fault is not None and self._is_gone(call.fault):
            return self._gone(call, call.fault)
        name, limit = self.settings.name, f"the call's deadline of {self.settings.deadline:g} s"
        if call.fault is None:
            paused = self._limiter.paused_for()
            reason = f"it asked to be left alone for {paused:.0f} s" if paused else f"no slot within {limit}"
            return EndpointUnavailable(reason, endpoint=name, retry_after=paused or None)
        reason = f"{call.fault.reason}; {limit} leaves no time to ask again"
        return call.fault.to_error(name, attempts=call.attempts, reason=reason)


def _window(settings: EndpointSettings) -> Window:
    if settings.max_in_flight == "adaptive":
        return AdaptiveWindow(ceiling=settings.ceiling)
    return FixedWindow(settings.max_in_flight)


def _rates(settings: EndpointSettings) -> RateGate:
    return RateGate(requests_per_minute=settings.requests_per_minute, tokens_per_minute=settings.tokens_per_minute)


def _per_minute(settings: EndpointSettings) -> tuple[float | None, float | None]:
    return settings.requests_per_minute, settings.tokens_per_minute
