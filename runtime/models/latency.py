"""Telling a server that works harder from one that only queues.

A batching server answers more slowly the more it has to do, and rightly so: as long as its throughput grows,
more calls in flight are a gain. So slowness counts against a limit only where it buys nothing: a batch of calls
took clearly longer than those of the best batch, with no more throughput (calls in flight divided by latency).

Batches are taken in order of completion, whatever limit their calls were sent under: the calls of one limit that
are the first to be back are its shortest ones, and would make every longer stretch look slow.
"""

from __future__ import annotations

from statistics import median

_FEWEST = 64
_CLEARLY_SLOWER = 1.5
_CLEARLY_BETTER = 1.05
_HELPED = 0.9
_CUT = 0.75


class LatencyWatch:
    """Compares batches of answered calls; latencies are in seconds."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._in_flight = 0
        self._skip = 0
        self._best: tuple[float, float] | None = None
        self._before_cut: float | None = None

    def add(self, latency: float, in_flight: int) -> int | None:
        """Count an answered call; the number in flight to go down to if the server only queues, else None."""
        if self._skip:
            self._skip -= 1
            return None
        self._samples.append(latency)
        self._in_flight += in_flight
        if len(self._samples) < max(_FEWEST, 2 * in_flight):
            return None
        load, now = self._in_flight / len(self._samples), median(self._samples)
        self._samples.clear()
        self._in_flight = 0
        return self._judge(load, now)

    def _judge(self, load: float, now: float) -> int | None:
        before_cut, self._before_cut = self._before_cut, None
        if before_cut is not None and now > _HELPED * before_cut:
            # Fewer calls were no faster: the work or the neighbours changed, so the past is no measure any more.
            self._best = (load, now)
            return None
        if self._best is None or self._is_better(load, now, *self._best):
            self._best = (load, now)
            return None
        best_load, best_latency = self._best
        if load <= best_load or now <= _CLEARLY_SLOWER * best_latency:
            return None
        # What is in flight now was sent into the queue that is to go, and would hide whether the cut helps.
        self._before_cut, self._skip = now, int(load)
        return max(1, int(max(best_load, _CUT * load)))

    @staticmethod
    def _is_better(load: float, latency: float, best_load: float, best_latency: float) -> bool:
        throughput, best = load / latency, best_load / best_latency
        # At equal throughput the smaller load is the better one: else noise would walk the mark upwards.
        return throughput >= (_CLEARLY_BETTER * best if load > best_load else best)
