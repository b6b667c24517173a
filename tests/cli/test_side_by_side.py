"""One writes, killed and started again or for long; the others read beside it, and nobody meets a locked database."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from store.database import FILE_NAME
from tests.acceptance.programs import Ran, cso
from tests.cli.test_tail import Tail, tailing
from tests.story import STORY_LENGTH

__all__ = ["tailing"]  # a fixture

ROOT = Path(__file__).parents[2]
NOBODY = {
    f"CSO_MODELS__{role}__{key}": value
    for role in ("POLICY", "EXPERT", "PRM")
    for key, value in (("BASE_URL", "http://127.0.0.1:9/v1"), ("MODEL", "m"), ("API_KEY_ENV", ""))
}


@contextmanager
def writing(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that commits as fast as it can and prints a line a commit, with the event log beside it; killed."""
    command = [sys.executable, "-m", "tests.runtime.logging_child", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def commits(process: subprocess.Popen[bytes], count: int) -> None:
    """Wait for so many commits."""
    assert process.stdout is not None
    for _ in range(count):
        assert process.stdout.readline()


def newest(folder: Path) -> int:
    """The seq of the last event that was committed."""
    with closing(sqlite3.connect(f"file:{folder / FILE_NAME}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT max(seq) FROM events").fetchone()[0])


def test_following_shows_every_event_once_although_the_writer_is_killed_again_and_again(
    tmp_path: Path, tailing: Callable[..., Tail]
) -> None:
    tail = tailing("-f", "--json", "--data", str(tmp_path))
    tail.wait_for(lambda: bool(tail.errors))
    for count in (1, 40, 3, 90, 10):
        with writing(tmp_path) as process:
            commits(process, count)
    end = newest(tmp_path)
    assert end >= STORY_LENGTH + 7 * (1 + 40 + 3 + 90 + 10)
    tail.wait_for(lambda: len(tail.lines) >= end)
    assert tail.end(signal.SIGINT) == 130
    assert tail.seqs() == list(range(1, end + 1))
    assert tail.errors == [f"waiting for a run in {tmp_path}\n"]


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.slow)])
async def test_beside_heavy_writing_nobody_meets_a_locked_database(
    tmp_path: Path, tailing: Callable[..., Tail], seconds: int
) -> None:
    data = ("--data", tmp_path)
    # What each command ends with: a second daemon is told of the first, everyone else is served.
    commands: dict[tuple[str | Path, ...], int] = {
        ("serve", "--port", "0"): 1,
        ("status", "--json"): 0,
        ("export", "--out", tmp_path / "pairs"): 0,
        ("tail", "--json"): 0,
        ("doctor", "--quick", "--no-endpoints"): 0,
    }
    ended: dict[tuple[str | Path, ...], list[Ran]] = {words: [] for words in commands}

    async def repeat(words: tuple[str | Path, ...]) -> None:
        # Once more after the time is up would do no harm; never at all would prove nothing.
        while anyio.current_time() < until or not ended[words]:
            ended[words].append(await cso(*words, *data, environ=NOBODY))

    tail = tailing("-f", "--json", "-n", "0", "--data", str(tmp_path))
    with writing(tmp_path) as process:
        await anyio.to_thread.run_sync(commits, process, 1)
        # What it prints has to go somewhere, or it would stop writing.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(anyio.to_thread.run_sync, drain, process, abandon_on_cancel=True))
            until = anyio.current_time() + seconds
            async with anyio.create_task_group() as looking:
                for words in commands:
                    looking.start_soon(repeat, words)
            process.kill()
    for words, code in commands.items():
        for ran in ended[words]:
            assert ran.status == code, (words, ran.said)
            assert not re.search(r"lock|busy|Traceback", ran.said), (words, ran.said)
    assert all(f"is in use by process {process.pid}" in ran.said for ran in ended["serve", "--port", "0"])
    end = newest(tmp_path)
    await anyio.to_thread.run_sync(tail.wait_for, lambda: len(tail.lines) >= end)
    assert tail.seqs() == list(range(1, end + 1))
    assert not [line for line in tail.errors if "waiting for" not in line]


def drain(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    while process.stdout.readline():
        pass
