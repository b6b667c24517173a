"""The machine under a daemon: its limits, its clock, and what people are told when it gets into trouble."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable

import anyio

from runtime.logs import get_logger
from store.errors import StorageTroubleError

# Rollouts, model calls and watchers each take a few; more helps nobody and slows every fork on some systems.
_DESCRIPTORS = 65_536
# Fewer are not even enough for the database, the sandbox, the API and a rollout.
_LEAST_DESCRIPTORS = 64
# Objects before the youngest are looked at (some milliseconds), and how often that is done before older ones are.
_GARBAGE_THRESHOLDS = (20_000, 20, 20)
_CLOCK_EVERY_S = 10.0
_CLOCK_TOLERANCE_S = 1.0
_log = get_logger("machine")


def tell_of_trouble(trouble: StorageTroubleError | None) -> None:
    """Say once that work waits, for what, and what to do; and once that it goes on."""
    if trouble is None:
        _log.warning("the trouble is over: work goes on", trouble=None)
        return
    _log.error(f"work waits: {described(trouble)}, nothing is lost", trouble=trouble.trouble)


def described(trouble: StorageTroubleError) -> str:
    """What a daemon waits for, and what to do."""
    return f"{trouble.what}. Next: {trouble.next_step}; work then goes on by itself"


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it is allowed to, within reason; how many that is now.

    Raises:
        StorageTroubleError: they are too few to begin with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if wanted < _LEAST_DESCRIPTORS:
        raise StorageTroubleError(
            "descriptors",
            f"this process may open {wanted} files at most, and needs {_LEAST_DESCRIPTORS} and some for each rollout",
            "raise the hard limit (ulimit -Hn, LimitNOFILE=)",
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def collect_garbage_seldom() -> None:
    """Leave what has been loaded so far to itself, and look for cycles among the rest after more objects than usual.

    Python looks after 700 new objects. With hundreds of rollouts under way that takes a quarter of the time, and
    finds hardly anything, because what rollouts leave behind is freed by its reference counts.
    """
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)


async def watch_clock(
    set_back: Callable[[], object], *, clock: Callable[[], float] = time.time, every: float = _CLOCK_EVERY_S
) -> None:
    """Say when the clock is set back, and call a function then, until cancelled.

    Only times that people read are wrong then: nothing that is measured or put off depends on this clock alone.

    Args:
        clock: seconds since 1970.
        every: seconds between two looks.
    """
    ahead = clock() - time.monotonic()
    while True:
        await anyio.sleep(every)
        now = clock() - time.monotonic()
        if now < ahead - _CLOCK_TOLERANCE_S:
            _log.warning(
                f"the clock was set back by {ahead - now:.0f} seconds: times in the log repeat, its order stands"
            )
            set_back()
        ahead = now
