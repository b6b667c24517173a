"""Who may send now: slots of one endpoint, handed out first come, first served.

A call holds one permit while one attempt is on its way, never while it backs off. Calls that come back from a
refused attempt go to the head of the queue, for they have waited longest. Three things hold the queue: the
window (fixed or adaptive), a pause that the endpoint asked for, and the rates per minute.

No lock is needed: everything here runs on one event loop, and state changes only between awaits.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from runtime.clock import loop_time

if TYPE_CHECKING:
    from runtime.models.rates import RateGate
    from runtime.models.window import Window


class Limiting(StrEnum):
    """What keeps the next call waiting."""

    NONE = "none"
    MAX_IN_FLIGHT = "max-in-flight"  # the fixed limit, or the ceiling of the adaptive one
    ADAPTIVE = "adaptive"  # the capacity found so far
    RATE_LIMIT = "rate-limit"  # requests or tokens per minute
    RETRY_AFTER = "retry-after"  # the endpoint asked to be left alone


class SentAwayError(Exception):
    """Raised to a call that waited when `dismiss` was called: nothing is known of it, and it may ask elsewhere."""


class Permit:
    """The right to have one request on its way; ends once, in one of three ways, and later ones do nothing."""

    __slots__ = ("_is_open", "_limiter", "_serial", "_tokens", "_window")

    def __init__(self, limiter: Limiter, window: Window, serial: int, tokens: int) -> None:
        self._limiter = limiter
        self._window = window
        self._serial = serial
        self._tokens = tokens
        self._is_open = True

    def succeeded(self, latency: float, tokens: int) -> None:
        """End with a reply, `latency` seconds after sending, that used `tokens` tokens (0: unknown)."""
        if self._is_open:
            limiter = self._limiter
            if tokens:
                limiter.rates.settle(self._tokens, tokens)
            self._window.succeeded(self._serial, latency, limiter.in_flight)
            self.release()

    def refused(self) -> None:
        """End because the server shed this request, or timed out over it."""
        if self._is_open:
            self._window.refused(self._serial, self._limiter.in_flight)
            self.release()

    def unspent(self) -> None:
        """Give back the tokens that were booked: the server has not worked on them."""
        self._limiter.rates.settle(self._tokens, 0)
        self._tokens = 0

    def release(self) -> None:
        """End without news about the server's capacity."""
        if self._is_open:
            self._is_open = False
            self._limiter.give_back()


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    granted: anyio.Event = field(default_factory=anyio.Event)
    permit: Permit | None = None
    is_gone: bool = False
    is_sent_away: bool = False


class Limiter:
    """Hands out permits; `in_flight` counts those not yet ended, `waiting` the calls in the queue."""

    def __init__(self, *, window: Window, rates: RateGate) -> None:
        self.window = window
        self.rates = rates
        self.in_flight = 0
        self.waiting = 0
        self._queue: deque[_Waiter] = deque()
        self._paused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, *, deadline: float, tokens: int = 0, again: bool = False) -> Permit | None:
        """Wait for a permit until `deadline` (loop time); None if it passes or is sure to.

        `tokens` is the call's estimated cost, `again` sends a retried call to the head of the queue.

        Raises SentAwayError after `dismiss`.
        """
        if max(loop_time(), self._paused_until) >= deadline:
            return None
        if not self.waiting and self._blocked(tokens)[0] is Limiting.NONE:
            # Without this, a caller cancelled long ago would go on sending: nothing else here waits.
            await anyio.lowlevel.checkpoint_if_cancelled()
            return self._issue(tokens)
        return await self._wait(_Waiter(tokens), deadline, again=again)

    def pause(self, seconds: float) -> None:
        """Let no call start for so long; the longest of several pauses holds."""
        self._paused_until = max(self._paused_until, loop_time() + seconds)

    def dismiss(self) -> None:
        """Send away all calls that wait: they may fare better elsewhere."""
        for waiter in self._queue:
            waiter.is_sent_away = not waiter.is_gone
            waiter.granted.set()
        self._queue.clear()

    def paused_for(self) -> float:
        """Seconds left of a pause, 0 without one."""
        return max(0.0, self._paused_until - loop_time())

    def left_alone_for(self) -> float:
        """Seconds for which the endpoint wants no request: by a pause, or because a limit of its own is used up."""
        return max(self.paused_for(), self.rates.closed_for(loop_time()))

    def go_on(self) -> None:
        """Let calls start although the endpoint wanted to be left alone."""
        self._paused_until = 0.0
        self.rates.reopen()
        self._pump()

    def replace(self, *, window: Window | None = None, rates: RateGate | None = None) -> None:
        """Go by another window or other rates; calls beyond it that are on their way end in their own time."""
        self.window = window or self.window
        self.rates = rates or self.rates
        self._pump()

    def limiting(self) -> Limiting:
        """What holds the next call in the queue; with an empty one, only that the endpoint wants to be left alone."""
        if self.waiting:
            head = next((waiter for waiter in self._queue if not waiter.is_gone), None)
            return self._blocked(head.tokens if head else 0)[0]
        if self.paused_for():
            return Limiting.RETRY_AFTER
        return Limiting.RATE_LIMIT if self.left_alone_for() else Limiting.NONE

    def give_back(self) -> None:
        """Take back a permit's slot; called by permits only."""
        self.in_flight -= 1
        if self.waiting:
            self._pump()

    def close(self) -> None:
        """Drop the timer; calls that still wait are their callers' to cancel."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _wait(self, waiter: _Waiter, deadline: float, *, again: bool) -> Permit | None:
        if again:
            self._queue.appendleft(waiter)
        else:
            self._queue.append(waiter)
        self.waiting += 1
        self._pump()
        is_cancelled = True
        try:
            with anyio.CancelScope(deadline=deadline):
                await waiter.granted.wait()
            is_cancelled = False
        finally:
            self.waiting -= 1
            waiter.is_gone = True
            # Granted and cancelled at the same moment: the slot must go to the next in the queue.
            if is_cancelled and waiter.permit is not None:
                waiter.permit.release()
            elif self.waiting:
                self._pump()
        if waiter.is_sent_away:
            raise SentAwayError
        return waiter.permit

    def _pump(self) -> None:
        """Grant permits from the head of the queue until something holds it."""
        while self._queue:
            waiter = self._queue[0]
            if waiter.is_gone:
                self._queue.popleft()
                continue
            reason, look_again = self._blocked(waiter.tokens)
            if reason is not Limiting.NONE:
                self._look_again_at(look_again)
                return
            self._queue.popleft()
            waiter.permit = self._issue(waiter.tokens)
            waiter.granted.set()

    def _issue(self, tokens: int) -> Permit:
        self.in_flight += 1
        self.rates.take(tokens)
        return Permit(self, self.window, self.window.sent(self.in_flight), tokens)

    def _blocked(self, tokens: int) -> tuple[Limiting, float]:
        """What holds a call of so many tokens, and the loop time at which that may have changed by itself."""
        now = loop_time()
        if now < self._paused_until:
            return Limiting.RETRY_AFTER, self._paused_until
        if self.in_flight >= self.window.limit:
            return Limiting.ADAPTIVE if self.window.is_found else Limiting.MAX_IN_FLIGHT, math.inf
        wait = self.rates.delay(now, tokens)
        return (Limiting.RATE_LIMIT, now + wait) if wait > 0 else (Limiting.NONE, now)

    def _look_again_at(self, when: float) -> None:
        if when == math.inf or (self._timer is not None and self._timer.when() <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()
