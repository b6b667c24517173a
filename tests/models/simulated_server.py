"""A model server in simulated time: as many callers as wanted, a hidden capacity, no clock but its own."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.models.window import AdaptiveWindow

REFUSAL_SECONDS = 0.01


def seeded(seed: int) -> Random:
    """Numbers that are the same in every run."""
    return Random(seed)  # noqa: S311 - repeatable is the point, nothing here is a secret


@dataclass(slots=True)
class Tally:
    """What a stretch of simulated calls came to; `busy` is the mean number of calls that the server worked on."""

    answered: int = 0
    refused: int = 0
    busy: float = 0.0
    limits: tuple[int, ...] = ()

    @property
    def refused_share(self) -> float:
        return self.refused / (self.answered + self.refused)


class SimulatedServer:
    """Serves calls sent through a window as fast as it lets them through."""

    def __init__(self, window: AdaptiveWindow, *, seed: int, latency: Callable[[Random, int], float]) -> None:
        self.window = window
        self.latency = latency
        self.random = seeded(seed)
        self.now = 0.0
        self.in_flight = 0
        self.working = 0
        self._events: list[tuple[float, int, int, bool, float]] = []
        self._order = 0

    def run(self, calls: int, *, capacity: int, callers: int = 10_000) -> Tally:
        """Answer `calls` more calls with this capacity, sending whenever the window allows."""
        tally = Tally()
        started, area, limits = self.now, 0.0, []
        while tally.answered < calls:
            while self.in_flight < min(self.window.limit, callers):
                self._send(capacity)
            at, _, serial, is_answer, latency = heapq.heappop(self._events)
            area += (at - self.now) * self.working
            self.now = at
            if is_answer:
                self.working -= 1
                tally.answered += 1
                self.window.succeeded(serial, latency, self.in_flight)
            else:
                tally.refused += 1
                self.window.refused(serial, self.in_flight)
            self.in_flight -= 1
            limits.append(self.window.limit)
        tally.busy = area / (self.now - started)
        tally.limits = tuple(limits)
        return tally

    def _send(self, capacity: int) -> None:
        self.in_flight += 1
        self._order += 1
        serial = self.window.sent(self.in_flight)
        if self.working < capacity:
            self.working += 1
            took = self.latency(self.random, self.working)
            heapq.heappush(self._events, (self.now + took, self._order, serial, True, took))
        else:
            event = (self.now + REFUSAL_SECONDS, self._order, serial, False, REFUSAL_SECONDS)
            heapq.heappush(self._events, event)
