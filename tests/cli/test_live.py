"""What `cso status` says of a daemon's endpoints, in words that need no arithmetic."""

from __future__ import annotations

import time
from typing import Any

import pytest

from runtime.cli.live import daemon_rows
from runtime.clock import clock_time

ENDPOINT = {
    "in_flight": 1,
    "limit": 8,
    "waiting": 0,
    "limiting": "none",
    "refused": 0,
    "retried": 0,
    "calls": 1,
    "stopped": False,
    "reason": None,
    "until": None,
}


def row(**facts: Any) -> str:  # JSON
    """What is said of an endpoint."""
    seen = {"pid": 1, "started": 0.0, "url": "u", "state": "working", "endpoints": {"policy": {**ENDPOINT, **facts}}}
    return dict(daemon_rows(seen))["policy endpoint"]


@pytest.mark.parametrize(("seconds", "left"), [(25.4, "25 s"), (899.5, "15 min"), (-5.0, "0 s")])
def test_an_endpoint_that_is_left_alone_has_the_time_at_which_it_is_asked_again(seconds: float, left: str) -> None:
    until = time.time() + seconds
    assert row(stopped=True, reason="cannot be reached since 10:00: connection refused", until=until) == (
        f"stopped: cannot be reached since 10:00: connection refused; asked again at {clock_time(until)}, in {left}, "
        "or at once with `cso retry --all`"
    )
