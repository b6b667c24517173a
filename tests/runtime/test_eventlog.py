"""The event log in files: what the database holds, once, in order, whatever happens."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

import runtime.eventlog
from runtime.eventlog import EVENTS_FILE, EventFiles, EventLog, Mark
from store.database import Database
from store.events import StepCompleted
from store.log import Log
from tests.story import STORY_LENGTH, filler, tell_story

NOTED = StepCompleted(run=1, trajectory=1, step=0, failed=False)
_LARGE = 1 << 20
_SMALL = 1000


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(tmp_path) as opened:
        await opened.write(tell_story())
        yield opened


@pytest.fixture
def current(tmp_path: Path) -> Path:
    return tmp_path / EVENTS_FILE


async def bring_up_to_date(database: Database, *, max_bytes: int = _LARGE, kept: int = 1000) -> None:
    """What a daemon does that starts, finds events and stops."""
    files = EventFiles(database.directory / EVENTS_FILE, max_bytes=max_bytes, kept=kept)
    await EventLog(database, files).finish()


async def told(database: Database) -> bytes:
    """What the files should hold."""
    log = Log(database)
    pages = log.pages(0, up_to=await log.newest())
    return b"".join([entry.line() async for page in pages for entry in page.entries])


def held(current: Path) -> bytes:
    """What the files hold, oldest first."""
    return b"".join(file.read_bytes() for file in [*sorted(current.parent.glob("events-*.jsonl")), current])


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def remove(file: Path) -> None:
    file.unlink()


def fill_disk(current: Path) -> None:
    """Have writing to a file fail as on a full disk, until it is removed."""
    current.parent.mkdir()
    current.symlink_to("/dev/full")


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - files have no event to wait for
            await anyio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(database: Database) -> AsyncIterator[EventLog]:
    """An event log that follows the database."""
    log = EventLog(database, EventFiles(database.directory / EVENTS_FILE, max_bytes=_LARGE, kept=5))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.run)
        yield log
        tasks.cancel_scope.cancel()
    await log.finish()


async def test_the_file_holds_what_the_database_holds(database: Database, current: Path) -> None:
    await bring_up_to_date(database)
    assert held(current) == await told(database)
    assert held(current).count(b"\n") == STORY_LENGTH


async def test_commits_reach_the_file_while_the_log_runs(database: Database, current: Path) -> None:
    async with running(database) as log:
        await until(lambda: current.exists() and held(current).count(b"\n") == STORY_LENGTH)
        await database.write(filler(1, 1, 1, 2000))
        log.note(NOTED)
        await until(lambda: held(current).count(b"\n") == STORY_LENGTH + 2000)
        await database.write(filler(1, 1, 1, 3))
    assert held(current) == await told(database)


async def test_a_restart_goes_on_behind_the_last_line(database: Database, current: Path) -> None:
    await bring_up_to_date(database)
    first = held(current)
    await bring_up_to_date(database)
    assert held(current) == first
    await database.write(filler(1, 1, 1, 3))
    await bring_up_to_date(database)
    assert held(current) == await told(database)
    assert held(current).startswith(first)


@pytest.mark.parametrize("rest", [b'{"seq":', b'{"seq": 9, "time": "x"}', b"\0" * 70_000, b"\n\n", b"[1]\n7\n{}\n"])
async def test_what_a_crash_left_behind_the_last_line_is_removed(
    database: Database, current: Path, rest: bytes
) -> None:
    await bring_up_to_date(database)
    with current.open("ab") as file:
        file.write(rest)
    await database.write(filler(1, 1, 1, 1))
    await bring_up_to_date(database)
    assert held(current) == await told(database)


async def test_a_line_cut_off_anywhere_is_written_again_whole(database: Database, current: Path) -> None:
    await bring_up_to_date(database)
    whole = held(current)
    for end in range(0, len(whole), 97):
        write(current, whole[:end])
        await bring_up_to_date(database)
        assert held(current) == whole


async def test_a_file_that_has_grown_is_put_aside_under_its_last_seq(database: Database, current: Path) -> None:
    await database.write(filler(1, 1, 1, 50))
    await bring_up_to_date(database, max_bytes=_SMALL)
    assert held(current) == await told(database)
    older = sorted(current.parent.glob("events-*.jsonl"))
    assert len(older) > 5
    for file in older:
        assert file.stat().st_size <= _SMALL
        last = file.read_bytes().splitlines()[-1]
        assert last.startswith(b'{"seq":%d,' % int(file.stem.removeprefix("events-")))


async def test_a_restart_between_two_files_goes_on_as_well(database: Database, current: Path) -> None:
    await database.write(filler(1, 1, 1, 50))
    await bring_up_to_date(database, max_bytes=_SMALL)
    newest = max(current.parent.glob("events-*.jsonl"))
    remove(current)  # as a crash just after the renaming leaves it
    await bring_up_to_date(database, max_bytes=_SMALL)
    assert held(current) == await told(database)
    write(current, b"")
    write(newest.with_name("events-999999999999.jsonl"), b"torn")
    await bring_up_to_date(database)
    remove(newest.with_name("events-999999999999.jsonl"))
    assert held(current) == await told(database)


async def test_only_so_many_older_files_are_kept(database: Database, current: Path) -> None:
    await database.write(filler(1, 1, 1, 100))
    await bring_up_to_date(database, max_bytes=_SMALL, kept=2)
    assert len(list(current.parent.glob("events-*.jsonl"))) == 2
    assert (await told(database)).endswith(held(current))
    await database.write(filler(1, 1, 1, 1))
    await bring_up_to_date(database, max_bytes=_SMALL, kept=2)
    assert (await told(database)).endswith(held(current))


async def test_a_line_longer_than_a_file_may_be_is_written_all_the_same(database: Database, current: Path) -> None:
    await bring_up_to_date(database, max_bytes=1)
    assert held(current) == await told(database)
    assert len(list(current.parent.glob("events-*.jsonl"))) == STORY_LENGTH - 1


async def test_the_files_of_another_database_are_put_aside(database: Database, current: Path) -> None:
    await database.write(filler(1, 1, 1, 50))
    await bring_up_to_date(database, max_bytes=_SMALL)
    former = held(current)
    other = database.directory / "other"
    async with Database(other) as second:
        await second.write(tell_story())
        shutil.copytree(current.parent, other / "log")
        with capture_logs() as logs:
            await bring_up_to_date(second)
        moved = other / "log" / "earlier-1"
        assert [line["folder"] for line in logs] == [str(moved)]
        assert held(moved / current.name) == former
        assert held(other / EVENTS_FILE) == await told(second)
        with capture_logs() as logs:
            await bring_up_to_date(second)
        assert not logs


async def test_a_file_that_is_removed_meanwhile_is_made_again(database: Database, current: Path) -> None:
    async with running(database) as log:
        await until(lambda: current.exists() and held(current).count(b"\n") == STORY_LENGTH)
        shutil.rmtree(current.parent)
        await database.write(filler(1, 1, 1, 2))
        log.note(NOTED)
        await until(lambda: current.exists() and held(current).count(b"\n") == 2)
    assert (await told(database)).endswith(held(current))


async def test_a_full_disk_is_told_once_and_caught_up_with(
    database: Database, current: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    class Counting(EventFiles):
        def open(self) -> Mark:
            nonlocal attempts
            attempts += 1
            return super().open()

    monkeypatch.setattr(runtime.eventlog, "_RETRY_S", 0.01)
    monkeypatch.setattr(f"{__name__}.EventFiles", Counting)
    fill_disk(current)
    with capture_logs() as logs:
        async with running(database):
            await until(lambda: attempts >= 3)
            remove(current)
            await until(lambda: len(logs) == 2)
    assert [line["log_level"] for line in logs] == ["warning", "info"]
    assert "No space left" in logs[0]["error"]
    assert held(current) == await told(database)


async def test_a_disk_that_is_full_to_the_end_costs_nothing_but_the_file(database: Database, current: Path) -> None:
    fill_disk(current)
    with capture_logs() as logs:
        await bring_up_to_date(database)
    assert len(logs) == 1
    remove(current)
    await bring_up_to_date(database)
    assert held(current) == await told(database)


async def test_half_a_line_that_fitted_on_the_disk_is_not_kept(database: Database, current: Path) -> None:
    files = EventFiles(current, max_bytes=_LARGE, kept=1)
    files.open()
    entries = (await Log(database).page(0, up_to=STORY_LENGTH)).entries
    with files_up_to(500), pytest.raises(OSError, match="File too large"):
        files.append(entries)
    assert files.last is None
    assert len(held(current)) == 500
    last = files.open().seq
    assert 0 < last < STORY_LENGTH
    files.append(entries[last:])
    files.close()
    assert held(current) == await told(database)


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_kill_9_at_any_moment_loses_and_repeats_nothing(tmp_path: Path) -> None:
    current = tmp_path / EVENTS_FILE
    for commits in (1, 3, 30, 2, 60):
        await anyio.to_thread.run_sync(_commit_and_kill, tmp_path, commits)
    async with Database(tmp_path) as database:
        assert (await told(database)).startswith(held(current).rpartition(b"\n")[0])
        await bring_up_to_date(database, max_bytes=2000)
        assert held(current) == await told(database)
        assert held(current).count(b"\n") >= STORY_LENGTH + 7 * (1 + 3 + 30 + 2 + 60)


def _commit_and_kill(directory: Path, commits: int) -> None:
    command = [sys.executable, "-m", "tests.runtime.logging_child", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        for _ in range(commits):
            assert child.stdout.readline()
        child.kill()
