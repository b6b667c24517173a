"""A disk in trouble loses nothing, stops nothing for good, and blames no write for what is not its fault."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from store import trouble as trouble_module
from store.database import FILE_NAME, Database, Reader
from store.errors import DamagedDatabaseError, DatabaseGoneError, NewerDatabaseError, StorageTroubleError
from store.runs import create_run, find_run
from store.transaction import Transaction
from store.trouble import Standing, free_bytes, has_room, lacks_descriptors, probe, storage_error
from tests.disks import fill, small_disk

DEADLINE_S = 20
SMALL_MB = 3


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon, so that the tests are quick."""
    monkeypatch.setattr("store.writer.RETRY_S", 0.02)
    monkeypatch.setattr("store.database.RETRY_S", 0.02)
    monkeypatch.setattr(trouble_module, "RETRY_S", 0.02)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=SMALL_MB):
        yield tmp_path / "disk"


class Told:
    """What people were told, and how to wait for it."""

    def __init__(self) -> None:
        self.words: list[str | None] = []
        self._news = asyncio.Event()

    def __call__(self, trouble: StorageTroubleError | None) -> None:
        """Take a message down."""
        self.words.append(None if trouble is None else trouble.trouble)
        self._news.set()

    async def until(self, *words: str | None) -> None:
        """Wait until exactly these have been told."""
        with anyio.fail_after(DEADLINE_S):
            while self.words != list(words):
                self._news.clear()
                await self._news.wait()


@contextlib.asynccontextmanager
async def patient(folder: Path, told: Told) -> AsyncIterator[Database]:
    async with Database(folder, on_trouble=told) as database, database.waiting_out_trouble():
        yield database


def begin(transaction: Transaction) -> int:
    return create_run(transaction, name="r", digest="d", identity={}).id


def put(transaction: Transaction, content: bytes) -> int:
    return transaction.blobs.content(content)


def noise(size: int) -> bytes:
    return os.urandom(size)


async def test_writes_wait_while_the_disk_is_full_and_all_are_there_when_it_is_not(disk: Path) -> None:
    told, contents = Told(), [noise(20_000) for _ in range(20)]
    async with patient(disk / "data", told) as database:
        await database.write(begin)
        filler = fill(disk)
        writes = [database.submit(partial(put, content=content)) for content in contents]
        await told.until("full")
        assert not any(write.done() for write in writes)
        # Reading goes on meanwhile.
        assert await find_run(database, "r") is not None
        assert str(database.trouble).startswith(f"the disk of {disk / 'data'} is full")
        filler.unlink()
        with anyio.fail_after(DEADLINE_S):
            numbers = await asyncio.gather(*writes)
        await told.until("full", None)
        assert str(database.trouble) == "None"
        assert len(set(numbers)) == len(contents)
        (row,) = await database.fetch("SELECT count(*) AS n FROM blobs")
        assert row["n"] == len(contents)


async def test_what_waits_for_a_full_disk_when_work_ends_fails_and_what_was_committed_stays(disk: Path) -> None:
    told = Told()
    async with Database(disk / "data", on_trouble=told) as database:
        await database.write(begin)
        fill(disk)
        async with database.waiting_out_trouble(lambda: 0.1):
            write = database.submit(lambda t: t.blobs.content(noise(200_000)))
            await told.until("full")
        with pytest.raises(StorageTroubleError, match="is full") as caught, anyio.fail_after(DEADLINE_S):
            await write
        assert caught.value.trouble == "full"
        await database.flush()  # which writes nothing, and shows nothing
        assert told.words == ["full"]
    async with Reader(disk / "data") as reader:
        assert await find_run(reader, "r") is not None


async def test_what_waits_for_a_full_disk_when_work_is_stopped_is_saved_if_there_is_room_in_time(disk: Path) -> None:
    told, loop = Told(), asyncio.get_running_loop()
    async with Database(disk / "data", on_trouble=told) as database:
        await database.write(begin)
        filler = fill(disk)
        with anyio.CancelScope() as work:
            async with database.waiting_out_trouble(lambda: DEADLINE_S):
                write = database.submit(lambda t: t.blobs.content(noise(200_000)))
                await told.until("full")
                loop.call_later(0.5, filler.unlink)
                work.cancel()
                await anyio.sleep_forever()
        assert write.done()
        assert write.exception() is None


async def test_who_holds_up_the_end_for_a_write_that_a_full_disk_holds_up_is_not_held_up_for_ever(disk: Path) -> None:
    told = Told()

    async def work(database: Database) -> None:
        async with database.waiting_out_trouble(lambda: 0.1) as end_soon, anyio.create_task_group() as tasks:
            tasks.start_soon(database.save, lambda t: t.blobs.content(noise(200_000)))
            await told.until("full")
            tasks.cancel_scope.cancel()
            end_soon()

    async with Database(disk / "data", on_trouble=told) as database:
        await database.write(begin)
        fill(disk)
        with pytest.raises(ExceptionGroup) as caught, anyio.fail_after(DEADLINE_S):
            await work(database)
        assert caught.group_contains(StorageTroubleError, match="is full")


def test_a_file_system_that_tells_of_no_size_has_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=0):  # which is a tmpfs without a limit
        assert os.statvfs(tmp_path / "disk").f_blocks == 0
        assert free_bytes(tmp_path / "disk") is None
        assert has_room(tmp_path / "disk")


async def test_a_full_disk_is_an_error_at_once_for_those_who_do_not_wait(disk: Path) -> None:
    async with Database(disk / "data") as database:
        await database.write(begin)
        fill(disk)
        with pytest.raises(StorageTroubleError, match=r"is full \(0.0 MB free\): free some space there"):
            await database.write(lambda t: t.blobs.content(noise(200_000)))
        assert await find_run(database, "r") is not None


async def test_a_group_that_met_a_full_database_waits_whole_and_goes_on_whole(tmp_path: Path) -> None:
    told, room, content = Told(), threading.Event(), noise(100_000)

    def bound(transaction: Transaction) -> None:
        (pages,) = transaction.execute("PRAGMA page_count").fetchone()
        transaction.execute(f"PRAGMA max_page_count = {pages + 4}")

    def grow(transaction: Transaction) -> int:
        if room.is_set():
            transaction.execute("PRAGMA max_page_count = 1000000")
        return transaction.blobs.content(content)

    async with patient(tmp_path, told) as database:
        await database.write(begin)
        await database.write(bound)
        writes = [
            database.submit(lambda t: t.blobs.content(b"before")),
            database.submit(grow),
            database.submit(lambda t: t.blobs.content(b"after")),
        ]
        await told.until("full")
        assert not any(write.done() for write in writes)
        with contextlib.closing(sqlite3.connect(database.file)) as other:
            assert other.execute("SELECT count(*) FROM blobs").fetchone()[0] <= 1
        room.set()
        with anyio.fail_after(DEADLINE_S):
            assert len(set(await asyncio.gather(*writes))) == 3
        await told.until("full", None)


def test_a_limit_on_file_sizes_is_told_as_what_it_is(tmp_path: Path) -> None:
    code = f"""
import anyio, os, resource
from pathlib import Path
from store.database import Database
from store.errors import StorageTroubleError

async def main():
    async with Database(Path({str(tmp_path)!r})) as database:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        try:
            await database.write(lambda t: t.blobs.content(os.urandom(600_000)))
        except StorageTroubleError as error:
            print(error.trouble)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(await database.write(lambda t: t.blobs.content(os.urandom(600_000))))
anyio.run(main)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (result.stdout.split(), result.stderr) == (["file-size", "1"], "")


async def test_a_write_with_a_fault_of_its_own_fails_alone_and_at_once(tmp_path: Path) -> None:
    told = Told()
    async with patient(tmp_path, told) as database:
        with pytest.raises(sqlite3.IntegrityError), anyio.fail_after(DEADLINE_S):
            await database.write(lambda t: t.execute("INSERT INTO runs (name) VALUES ('incomplete')"))
        with pytest.raises(sqlite3.OperationalError, match="no such table"), anyio.fail_after(DEADLINE_S):
            await database.write(lambda t: t.execute("INSERT INTO absent VALUES (1)"))
        await database.write(begin)
    assert told.words == []


async def test_a_read_only_disk_is_told_and_reading_still_works(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder, megabytes=8):
        async with Database(folder / "data") as database:
            await database.write(begin)
        await anyio.run_process(["mount", "-o", "remount,ro", str(folder)])
        with pytest.raises(StorageTroubleError, match="read-only disk"):
            async with Database(folder / "data"):
                pass
        with pytest.raises(StorageTroubleError, match="read-only disk"):
            async with Database(folder / "other"):
                pass
        async with Reader(folder / "data") as reader:
            assert await find_run(reader, "r") is not None


async def test_another_program_that_holds_the_database_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.database._BUSY_TIMEOUT_S", 0.05)
    told = Told()
    async with patient(tmp_path, told) as database:
        other = sqlite3.connect(database.file, isolation_level=None)
        with contextlib.closing(other):
            other.execute("BEGIN IMMEDIATE")
            write = database.submit(begin)
            await told.until("busy")
            other.execute("COMMIT")
            with anyio.fail_after(DEADLINE_S):
                await write
        await told.until("busy", None)


@pytest.mark.parametrize("what", ["garbage", "header", "cut"])
async def test_a_damaged_database_is_left_alone_and_named(tmp_path: Path, what: str) -> None:
    async with Database(tmp_path) as database:
        await database.write(begin)
        await database.write(lambda t: t.blobs.content(noise(300_000)))
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    damaged = {"garbage": noise(len(content)), "header": b"x" * 100 + content[100:], "cut": content[:5000]}[what]
    file.write_bytes(damaged)
    with pytest.raises(DamagedDatabaseError, match="cso doctor"):
        async with Database(tmp_path) as database:
            await database.write(lambda t: t.execute("SELECT count(*), max(data) FROM blobs").fetchall())
    with pytest.raises(DamagedDatabaseError, match=FILE_NAME):
        async with Reader(tmp_path) as reader:
            await reader.fetch("SELECT max(data) FROM blobs")
    assert len(file.read_bytes()) == len(damaged)


async def test_damage_found_while_working_ends_all_writing_for_good(tmp_path: Path) -> None:
    async with Database(tmp_path) as database:
        await database.write(begin)
        numbers = [await database.write(lambda t: t.blobs.content(noise(100_000))) for _ in range(20)]
    file = tmp_path / FILE_NAME
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'blobs'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(file.read_bytes())
    content[size * (root - 1) : size * root] = b"\xff" * size
    file.write_bytes(content)
    told = Told()
    async with patient(tmp_path, told) as database:
        with pytest.raises(DamagedDatabaseError), anyio.fail_after(DEADLINE_S):
            await database.write(lambda t: t.execute("DELETE FROM blobs WHERE id = ?", (numbers[-1],)))
        with pytest.raises(DamagedDatabaseError), anyio.fail_after(DEADLINE_S):
            await database.write(lambda t: t.execute("UPDATE runs SET paused = 1"))
    assert told.words == []


async def test_readers_too_leave_a_newer_database_alone(tmp_path: Path) -> None:
    async with Database(tmp_path):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("PRAGMA user_version = 999")
    async with Reader(tmp_path) as reader:
        with pytest.raises(NewerDatabaseError, match="999"):
            await reader.fetch("SELECT 1")


async def test_removing_the_wal_while_it_is_used_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    async with Database(tmp_path) as database:
        await database.write(begin)
        (tmp_path / f"{FILE_NAME}-wal").unlink()
        with pytest.raises(DatabaseGoneError, match="moved into the database"):
            await database.write(lambda t: t.blobs.text("too late"))
    async with Reader(tmp_path) as reader:
        assert await find_run(reader, "r") is not None
        assert await reader.fetch("SELECT * FROM blobs") == []


async def test_removing_the_folder_while_it_is_used_is_noticed_by_the_next_write(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with Database(folder) as database:
        await database.write(begin)
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(DatabaseGoneError, match="removed or replaced"):
            await database.write(lambda t: t.blobs.text("too late"))
    async with Reader(tmp_path / "elsewhere") as reader:
        assert await find_run(reader, "r") is not None


async def test_a_data_directory_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageTroubleError, match="not a folder that can be made or used"):
            async with Database(folder):
                pass


def test_a_data_directory_of_someone_else_says_so(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
    command = [sys.executable, "-c", _OPEN_AS_NOBODY, str(tmp_path / "data")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.stdout.startswith("denied"), result.stderr


async def test_whoever_may_not_write_to_the_directory_is_told_so_when_they_read(data: Path) -> None:
    async with Database(data) as database:
        await database.write(begin)
    os.chmod(data, 0o555)  # noqa: PTH101, S103 - as a Path it would block no less; others are to read it
    result = await anyio.run_process([sys.executable, "-c", _READ_AS_NOBODY, str(data)], check=False)
    assert result.stdout.startswith(b"denied"), result.stderr


_READ_AS_NOBODY = """
import anyio, os, sys
from pathlib import Path
from store.database import Reader
from store.errors import StorageTroubleError
from store.runs import find_run

async def main():
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        async with Reader(Path(sys.argv[1])) as reader:
            await find_run(reader, "r")
    except StorageTroubleError as error:
        print(error.trouble, error)
anyio.run(main)
"""
_OPEN_AS_NOBODY = """
import anyio, os, sys
from pathlib import Path
from store.database import Database
from store.errors import StorageTroubleError

async def main():
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        async with Database(Path(sys.argv[1])):
            pass
    except StorageTroubleError as error:
        print(error.trouble, error)
anyio.run(main)
"""


def highest_descriptor() -> int:
    return max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())


async def test_too_few_file_descriptors_are_told_and_reading_waits_for_more(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = Told()
    async with patient(tmp_path, told) as database:
        await database.write(begin)
        used = highest_descriptor()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        taken: list[int] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(find_run, database, "r")
                await told.until("descriptors")
                for descriptor in taken:
                    os.close(descriptor)
                taken.clear()
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await told.until("descriptors", None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)


async def test_a_failure_on_a_sound_disk_was_no_trouble(tmp_path: Path) -> None:
    standing = Standing(tmp_path, lambda _trouble: None)
    assert not await standing.was_trouble(ValueError("unrelated"))
    assert not await standing.was_trouble(ValueError("unrelated"))


def failing_for(reason: int) -> Exception:
    """An error as a task group raises it, of something that failed because of something that failed."""
    error = RuntimeError("no connection")
    error.__cause__ = OSError(reason, os.strerror(reason))
    return ExceptionGroup("unhandled", [ValueError("unrelated"), error])


@pytest.mark.parametrize("reason", [errno.EMFILE, errno.ENFILE])
async def test_want_of_descriptors_is_known_by_its_error_though_they_are_free_again(
    tmp_path: Path, reason: int
) -> None:
    told = Told()
    assert probe(tmp_path) is None
    with anyio.fail_after(DEADLINE_S):
        assert await Standing(tmp_path, told).was_trouble(failing_for(reason))
    assert told.words == ["descriptors", None]
    assert not lacks_descriptors(failing_for(errno.ECONNREFUSED))


def test_a_process_with_few_descriptors_left_is_in_trouble_before_the_last_is_gone(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    eighth_free = [number for number in range(soft) if number not in used][8]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (eighth_free, hard))
        found = probe(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found is not None
    assert found.trouble == "descriptors"
    assert list(tmp_path.iterdir()) == []


async def test_a_failure_on_a_full_disk_is_answered_when_there_is_room_again(disk: Path) -> None:
    told = Told()
    standing, filler = Standing(disk, told), fill(disk)
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await standing.was_trouble(ValueError("unrelated")))

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
            await told.until("full")
            assert answers == []
            filler.unlink()
    assert answers == [True] * 5
    assert told.words == ["full", None]


@pytest.mark.parametrize("is_freed", [True, False], ids=["freed", "gone"])
async def test_a_failure_on_another_full_disk_is_answered_when_there_is_room_or_nobody_needs_it(
    tmp_path: Path, disk: Path, is_freed: bool
) -> None:
    told, folder = Told(), disk / "folder"
    folder.mkdir()
    standing, filler = Standing(tmp_path, told), fill(disk)
    error = RuntimeError("nothing can be made there")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", str(folder / "file"))
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await standing.was_trouble(error))

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await told.until("full")
            assert str(standing.trouble).startswith(f"the disk of {folder} is full")
            if is_freed:
                filler.unlink()
            else:
                folder.rmdir()
    assert (answers, told.words) == ([True], ["full", None])


async def test_who_cannot_look_for_the_end_of_trouble_looks_again(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, filler = Told(), fill(disk)
    standing = Standing(disk, told)
    looks: list[None] = []

    def look(_others: Collection[Path], directory: Path) -> StorageTroubleError | None:
        looks.append(None)
        if len(looks) == 2:
            raise RuntimeError("can't start new thread")
        if len(looks) == 3:
            filler.unlink()
        return probe(directory)

    monkeypatch.setattr(trouble_module, "_probe_with", look)
    with anyio.fail_after(DEADLINE_S):
        assert await standing.was_trouble(ValueError("unrelated"))
    assert (len(looks), told.words) == (3, ["full", None])


async def test_trouble_of_another_folder_keeps_nobody_from_writing_and_each_place_is_told_of(
    tmp_path: Path, disk: Path
) -> None:
    told = Told()
    async with patient(tmp_path / "data", told) as database, anyio.create_task_group() as tasks:
        filler = fill(disk)
        error = OSError(errno.ENOSPC, "No space left on device", str(disk / "file"))
        tasks.start_soon(database.was_trouble, error)
        await told.until("full")
        assert str(database.trouble).startswith(f"the disk of {disk} is full")
        assert database.own_trouble is None
        database.check_usable()
        await database.write(begin)
        own = StorageTroubleError("full", "the disk is full", "free some space", directory=tmp_path / "data")
        database._standing.begin("writer", own)
        assert told.words == ["full", "full"]
        with pytest.raises(StorageTroubleError, match="the disk is full"):
            database.check_usable()
        database._standing.end("writer")
        filler.unlink()
    assert told.words == ["full", "full", None]


async def test_trouble_is_not_over_because_whoever_met_it_waits_no_more(disk: Path) -> None:
    told = Told()
    standing, filler = Standing(disk, told), fill(disk)
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(standing.was_trouble, ValueError("unrelated"))
            await told.until("full")
            tasks.cancel_scope.cancel()
        await anyio.sleep(0.1)
        assert (told.words, standing.trouble is not None) == (["full"], True)
        filler.unlink()
        await told.until("full", None)
    await standing.close()


async def test_who_closes_the_database_while_there_is_trouble_does_not_say_that_it_is_over(disk: Path) -> None:
    told = Told()
    standing = Standing(disk, told)
    fill(disk)
    with anyio.move_on_after(0.3):
        await standing.was_trouble(ValueError("unrelated"))
    with anyio.fail_after(DEADLINE_S):
        await standing.close()
    assert told.words == ["full"]


def test_errors_that_say_nothing_about_the_directory_are_nobodys_trouble(tmp_path: Path) -> None:
    for error in (ValueError("no"), OSError(errno.ECONNRESET, "reset"), sqlite3.IntegrityError("unique")):
        assert storage_error(error, tmp_path / FILE_NAME) is None
    assert probe(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
