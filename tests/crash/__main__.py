"""`python -m tests.crash [--kills N] [--seed S] [--stop]`: the crash harness at length. `make crash-test` runs it.

Ends with status 1 and a list of problems if anything was lost, doubled or paid for twice.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

import anyio

from tests.crash.harness import Report, disturbed, undisturbed

_ENDINGS_A_WORLD = 12
_WORLDS = (7, 11, 23)


async def _run(endings: int, seed: int, tasks: int, number: signal.Signals) -> Report:
    """Go round the worlds, each time with other moments, until so many workers have been ended."""
    report, started = Report(), time.monotonic()
    expected = {world: await undisturbed(world=world, tasks=tasks) for world in _WORLDS}
    turn = 0
    while report.endings < endings and not report.problems:
        world = _WORLDS[turn % len(_WORLDS)]
        wanted = min(_ENDINGS_A_WORLD, endings - report.endings)
        report.add(
            await disturbed(
                seed=seed + turn, world=world, tasks=tasks, number=number, endings=wanted, expected=expected[world]
            )
        )
        turn += 1
        sys.stdout.write(f"seed {seed + turn - 1}, world {world}, {time.monotonic() - started:.0f} s: {report}\n")
        sys.stdout.flush()
    return report


def main() -> None:
    """Run the harness as a program."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description="Kill the work at random moments.")
    parser.add_argument("--kills", type=int, default=200, help="how many workers to end")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--tasks", type=int, default=8, help="tasks of a world")
    parser.add_argument("--stop", action="store_true", help="send SIGTERM instead of SIGKILL: nothing is repeated")
    options = parser.parse_args()
    number = signal.SIGTERM if options.stop else signal.SIGKILL
    report = anyio.run(_run, options.kills, options.seed, options.tasks, number)
    for problem in report.problems:
        sys.stdout.write(f"PROBLEM {problem}\n")
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
