"""All benchmarks, one after the other: `python -m benchmarks [--json] [--check]`. Takes some minutes.

They want the machine for themselves: what else runs on it shows in the figures.
"""

from __future__ import annotations

import sys

from benchmarks import agents, client, disk, events, restart, sandbox
from benchmarks.figures import Figure, run_alone

_ALL = {
    "events": events.measure,
    "client": client.measure_all,
    "sandbox": sandbox.measure,
    "agents": agents.measure,
    "disk": disk.measure,
    "restart": restart.measure,
}


def measure() -> list[Figure]:
    """The figures of all benchmarks."""
    found: list[Figure] = []
    for name, one in _ALL.items():
        print(f"{name} …", file=sys.stderr, flush=True)
        found += one()
    return found


if __name__ == "__main__":
    run_alone(measure, __doc__)
