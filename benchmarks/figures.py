"""What every benchmark shares: figures with the limit that they stand beside, facts of the machine, and printing."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from runtime.logs import configure_logs
from runtime.machine import collect_garbage_seldom

ROUNDS = 3
"""How often what takes seconds is measured, of which the best counts: what else a machine does comes in waves."""

_TICK_S = 0.005
_LOOP_S = 0.5
_LOOP = f"""
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {{int(sys.argv[1])}})
done, end = 0, time.perf_counter() + {_LOOP_S}
while time.perf_counter() < end:
    for _ in range(10_000):
        done += 1
print(done)
"""
_CORES = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset[int]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One result: `limit` is what `against` names, measured or computed in the same run.

    `at_least` or `at_most` is the target, None for a figure that only stands beside others.
    """

    name: str
    value: float
    unit: str
    against: str = ""
    limit: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float | None:
        """The value as a share of its limit."""
        return self.value / self.limit if self.limit else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_least is None and self.at_most is None:
            return None
        return self.value >= (self.at_least or -math.inf) and self.value <= (self.at_most or math.inf)

    def document(self) -> dict[str, object]:
        """The figure for programs."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


@dataclass(slots=True)
class Lag:
    """How late the event loop is for what is due, sampled 200 times a second while the task `watch` runs."""

    samples: list[float] = field(default_factory=list)

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            due = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self.samples.append(max(0.0, time.perf_counter() - due))

    def figures(self, during: str) -> list[Figure]:
        """Median, 99th percentile and longest, in milliseconds."""
        return [
            Figure(name=f"event-loop lag p50, {during}", value=1e3 * percentile(self.samples, 50), unit="ms"),
            Figure(
                name=f"event-loop lag p99, {during}",
                value=1e3 * percentile(self.samples, 99),
                unit="ms",
                at_most=50.0,
            ),
            Figure(name=f"event-loop lag max, {during}", value=1e3 * max(self.samples), unit="ms"),
        ]


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample below which so many percent of them lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def pin(core: int) -> None:
    """Stay on one core, where the system can do that; cores are counted from 0 among those allowed."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(_CORES)
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def unpin() -> None:
    """Undo `pin`: take every core that the process was started with."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, _CORES)


def machine() -> dict[str, object]:
    """The facts of the machine without which a figure means little."""
    cores = sorted(_CORES) or [0]
    return {
        "processor": _processor(),
        "cores": len(_CORES) or os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fsync_ms": round(fsync_ms(), 2),
        "pace": round(pace(cores[:1]), 1),
        "pace_of_all_at_once": round(pace(cores), 1),
        "load": os.getloadavg()[0],
    }


def pace(cores: Sequence[int]) -> float:
    """Millions of steps of a loop in Python that a core does in a second, while all of these do them; their mean.

    Virtual cores may be two halves of one, and a host may be busy: the same machine is not as fast every minute.
    """
    with contextlib.ExitStack() as stack:
        loops = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", _LOOP, str(core)], stdout=subprocess.PIPE, text=True)
            )
            for core in cores
        ]
        done = [int(loop.communicate()[0]) for loop in loops]
    return sum(done) / len(done) / _LOOP_S / 1e6


def fsync_ms(rounds: int = 50) -> float:
    """The median time of an fsync after a write of 4 KB where temporary files go, in milliseconds."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(rounds):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return 1e3 * percentile(times, 50)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def render(figures: Iterable[Figure]) -> str:
    """Figures as a table for people."""
    lines = [f"{'figure':58} {'value':>12} {'target':>11}  {'met':4} beside"]
    for figure in figures:
        target = ""
        if figure.at_least is not None:
            target = f">= {figure.at_least:,.5g}"
        elif figure.at_most is not None:
            target = f"<= {figure.at_most:,.5g}"
        met = {None: "", True: "yes", False: "NO"}[figure.met]
        beside = ""
        if figure.limit is not None and figure.ratio is not None:
            beside = f"{figure.ratio:.3g} of {figure.limit:,.5g} ({figure.against})"
        value = f"{figure.value:,.5g} {figure.unit}"
        lines.append(f"{figure.name:58} {value:>12} {target:>11}  {met:4} {beside}".rstrip())
    return "\n".join(lines)


def report(figures: Sequence[Figure], *, as_json: bool) -> None:
    """Print figures and the machine they were measured on."""
    facts = machine()
    if as_json:
        document = {"machine": facts, "figures": [figure.document() for figure in figures]}
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
        return
    print(render(figures))
    print("; ".join(f"{name} {value}" for name, value in facts.items()))


def run_alone(measure: Callable[[], list[Figure]], description: str | None) -> None:
    """The command line of one benchmark: print its figures; with --check fail when a target is missed."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    configure_logs("warning")  # to stderr: standard output is the figures' alone
    collect_garbage_seldom()  # as a daemon does, for whatever is measured here
    figures = measure()
    report(figures, as_json=options.json)
    if options.check and any(figure.met is False for figure in figures):
        sys.exit(1)
