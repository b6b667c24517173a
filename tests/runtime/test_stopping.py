"""A stop in stages, in a process that real signals reach: what is waited for is told, and every wait has an end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runtime.stopping import EXIT_GRACE_OVER

DEADLINE_S = 30
PROGRAM = """
import sys, anyio
from runtime.models.journal import Asking
from runtime.stopping import Stop, described_calls, staged_stop

def tell(text):
    print(text, flush=True)

async def last_words():
    tell("last words")

async def main(grace, seconds_of_work):
    stop = Stop(grace=grace, tell=tell)
    stop.on_stop = lambda: tell("on stop")
    stop.last_words = last_words
    async with staged_stop(stop):
        call = Asking(what="policy plan of t/0 step 0", since=anyio.current_time())
        stop.awaited = lambda: described_calls([call])
        tell("ready")
        with stop.work:
            await anyio.sleep_forever()
        await anyio.sleep(seconds_of_work)
    tell(f"ended by {stop.signal.name}")

anyio.run(main, float(sys.argv[1]), float(sys.argv[2]))
"""


# Whoever started the tests may have it ignored, as nohup does.
HEEDING = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n{PROGRAM}"
IGNORING = HEEDING.replace("SIG_DFL", "SIG_IGN")


@contextmanager
def program(*, grace: float, work: float, source: str = HEEDING) -> Iterator[subprocess.Popen[str]]:
    """A process that works for so many seconds after it was told to stop."""
    with subprocess.Popen(
        [sys.executable, "-c", source, str(grace), str(work)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert line(process) == "ready"
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # it was started with a pipe
    return process.stdout.readline().rstrip("\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_lets_work_end_and_the_process_ends_by_itself(number: signal.Signals) -> None:
    with program(grace=60, work=0.1) as process:
        process.send_signal(number)
        assert {line(process), line(process)} == {
            "on stop",
            "stopping: nothing new is begun (a second signal stops at once)",
        }
        assert line(process) == f"ended by {number.name}"
        assert process.wait(DEADLINE_S) == 0


def test_a_terminal_that_ends_is_told_of_twice_and_that_is_no_second_signal() -> None:
    with program(grace=60, work=0.3) as process:
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.05)  # or they may be one
        assert {line(process), line(process).partition(":")[0]} == {"on stop", "stopping"}
        assert line(process) == "ended by SIGHUP"
        assert process.wait(DEADLINE_S) == 0


def test_the_end_of_a_terminal_stops_nothing_that_was_started_to_outlast_it() -> None:
    with program(grace=60, work=0.1, source=IGNORING) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert {line(process), line(process).partition(":")[0]} == {"on stop", "stopping"}
        assert line(process) == "ended by SIGTERM"


def test_the_second_signal_ends_the_process_at_once_with_its_number() -> None:
    with program(grace=60, work=600) as process:
        process.send_signal(signal.SIGINT)
        assert line(process) == "on stop"
        assert line(process).startswith("stopping")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
        assert process.stdout is not None  # it was started with a pipe
        *_, said = process.stdout.read().splitlines()
        assert said.startswith("stopped at once, without 1 reply being paid for: policy plan of t/0 step 0 (")
        assert said.endswith("; what was committed stays")


def test_the_end_of_the_grace_is_an_end_after_last_words_and_names_what_is_lost() -> None:
    with program(grace=1.2, work=600) as process:
        process.send_signal(signal.SIGTERM)
        assert [line(process), line(process).partition(":")[0]] == ["on stop", "stopping"]
        assert line(process).startswith("waiting for 1 reply being paid for: policy plan of t/0 step 0 (")
        assert line(process).startswith("given up after 1.2 s, without 1 reply being paid for")
        assert line(process) == "last words"
        assert process.wait(DEADLINE_S) == 1


def test_the_end_of_the_grace_ends_the_process_though_nothing_can_be_saved() -> None:
    failing = PROGRAM.replace('tell("last words")', 'raise RuntimeError("the store is closed")').replace(
        "await anyio.sleep(seconds_of_work)", "await anyio.to_thread.run_sync(time.sleep, seconds_of_work)"
    )
    with program(grace=0.05, work=60, source=f"import time\n{failing}") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == EXIT_GRACE_OVER
