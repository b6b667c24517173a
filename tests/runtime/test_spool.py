"""The spool: each file is taken whole, once and only when it is complete, and comes to rest with a reason."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

import runtime.spool
from runtime.config.settings import Settings
from runtime.control import LocalControl, Submitted
from runtime.spool import Spool
from store.database import Database
from store.errors import StorageTroubleError, TaskFileError
from store.formats.task_files import TaskFile, TaskRecord, read_tasks
from tests.acceptance.running import settings_for

DEADLINE_S = 20
NOBODY = "http://127.0.0.1:9/v1"


class Box:
    """A spool folder with the database that its tasks go into."""

    def __init__(self, folder: Path, database: Database, settings: Settings) -> None:
        self.folder = folder / "spool"
        self.aside = folder / "aside"
        self.database = database
        self.control = LocalControl(database, settings)
        self.aside.mkdir()

    def move_in(self, name: str, content: bytes) -> None:
        """Put a finished file into the folder, as its user would."""
        (self.aside / "file").write_bytes(content)
        (self.aside / "file").rename(self.folder / name)

    def files(self, place: str) -> list[str]:
        """The names in one of the folder's places."""
        return sorted(path.name for path in (self.folder / place).iterdir() if path.is_file())

    async def until(self, place: str, *names: str) -> None:
        """Wait until a place holds these files."""
        with anyio.fail_after(DEADLINE_S):
            while self.files(place) != sorted(names):  # noqa: ASYNC110 - folders have no events here
                await anyio.sleep(0.01)

    async def tasks(self) -> list[str]:
        """The names of the tasks that were taken."""
        return [row["name"] for row in await self.database.fetch("SELECT name FROM tasks ORDER BY id")]

    def report(self, name: str) -> dict[str, Any]:
        """The report beside a rejected file."""
        found = orjson.loads((self.folder / "rejected" / f"{name}.report.json").read_bytes())
        assert isinstance(found, dict)
        return found


@pytest.fixture
async def box(data: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    monkeypatch.setattr(runtime.spool, "LOOK_S", 0.05)
    async with Database(data) as database:
        yield Box(data.parent, database, settings_for(NOBODY, data))


@contextlib.asynccontextmanager
async def taking(box: Box, control: LocalControl | None = None) -> AsyncIterator[Spool]:
    """Have the spool at work."""
    spool = Spool(box.folder, control or box.control)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spool.run)
        with anyio.fail_after(DEADLINE_S):
            while not all((box.folder / place).is_dir() for place in ("done", "rejected")):  # noqa: ASYNC110 - as above
                await anyio.sleep(0.01)
        yield spool
        tasks.cancel_scope.cancel()


async def seen(spool: Spool, ignored: int) -> None:
    """Wait until a look has found so much that is not taken, and no trouble."""
    with anyio.fail_after(DEADLINE_S):
        while (spool.seen.ignored, spool.seen.trouble) != (ignored, None):  # noqa: ASYNC110 - as above
            await anyio.sleep(0.01)


def line(name: str, answer: str = "42", **more: str) -> bytes:
    return orjson.dumps({"id": name, "question": f"What is {name}?", "answer": answer, **more}) + b"\n"


async def test_a_file_that_is_moved_in_is_submitted_and_comes_to_rest_in_done(box: Box) -> None:
    async with taking(box) as spool:
        (box.folder / "n.csv").write_text("1;2")
        box.move_in("a.jsonl", line("a") + line("b", file_name="n.csv"))
        await box.until("done", "a.jsonl")
        box.move_in("a.jsonl", line("a") + line("c"))
        await box.until("done", "a-2.jsonl", "a.jsonl")
        box.move_in("notes.txt", b"not a task file")
        box.move_in(".hidden.jsonl", line("h"))
        (box.folder / "link.jsonl").symlink_to(box.folder / "done" / "a.jsonl")
        (box.folder / "loop").symlink_to("loop")
        box.move_in("last.jsonl", line("d"))
        await box.until("done", "a-2.jsonl", "a.jsonl", "last.jsonl")
        box.move_in("more.JSON", line("e"))
        await seen(spool, 2)  # the others may belong to tasks
        assert [one.name for one in spool.seen.examples] == ["link.jsonl", "more.JSON"]
    assert await box.tasks() == ["a", "b", "c", "d"]
    assert box.files("taken") == box.files("rejected") == []
    assert box.files(".") == [".hidden.jsonl", "link.jsonl", "more.JSON", "n.csv", "notes.txt"]


async def test_a_file_that_cannot_be_taken_is_rejected_whole_with_every_reason(box: Box) -> None:
    async with taking(box):
        box.move_in("bad.jsonl", line("a") + b'{"question": "cut off\n' + b'{"question": "No answer?"}\n')
        await box.until("rejected", "bad.jsonl", "bad.jsonl.report.json")
        assert await box.tasks() == []
        report = box.report("bad.jsonl")
        assert report["file"] == "bad.jsonl"
        assert [reason.split(":")[0] for reason in report["reasons"]] == ["line 2", "line 3"]
        box.move_in("blank.jsonl", b"\n\n")
        box.move_in("good.jsonl", line("a"))
        await box.until("done", "good.jsonl")
        box.move_in("clash.jsonl", b"".join(line(f"{number}") for number in range(200)) + line("a", answer="43"))
        box.move_in("lost.jsonl", line("b", file_name="nowhere.csv"))
        names = ("bad.jsonl", "blank.jsonl", "clash.jsonl", "lost.jsonl")
        await box.until("rejected", *names, *(f"{name}.report.json" for name in names))
    assert box.report("blank.jsonl")["reasons"] == ["there is no task in it"]
    assert "task 'a' is already in this run" in box.report("clash.jsonl")["reasons"][0]
    assert "nowhere.csv" in box.report("lost.jsonl")["reasons"][0]
    assert await box.tasks() == ["a"]


async def test_a_file_that_is_being_written_is_left_alone_however_long_its_writer_pauses(box: Box) -> None:
    async with taking(box):
        with (box.folder / "slow.jsonl").open("wb", buffering=0) as slow:
            for name in ("a", "b"):
                slow.write(line(name))
                box.move_in(f"beside-{name}.jsonl", line(f"beside-{name}"))
                # The spool has looked several times when a file that came later is done.
                await box.until("done", *[f"beside-{done}.jsonl" for done in "ab" if done <= name])
                assert "slow.jsonl" in box.files(".")
        await box.until("done", "beside-a.jsonl", "beside-b.jsonl", "slow.jsonl")
    assert await box.tasks() == ["beside-a", "beside-b", "a", "b"]


async def test_an_empty_file_waits_for_what_is_to_come(box: Box) -> None:
    async with taking(box):
        box.move_in("later.jsonl", b"")
        box.move_in("other.jsonl", line("other"))
        await box.until("done", "other.jsonl")
        assert "later.jsonl" in box.files(".")
        (box.folder / "later.jsonl").write_bytes(line("later"))
        await box.until("done", "later.jsonl", "other.jsonl")


async def test_what_lies_there_and_is_not_taken_is_told_with_the_reason(box: Box) -> None:
    async with taking(box) as spool:
        (box.folder / "folder.jsonl").mkdir()
        (box.folder / "batch").mkdir()
        (box.folder / ".hidden.jsonl").touch()
        (box.folder / "link.jsonl").symlink_to(box.aside)
        os.mkfifo(box.folder / "pipe.jsonl")
        for name in ("empty.jsonl", "readme.txt", "tasks.ndjson", *(f"{number:03}.json" for number in range(20))):
            (box.folder / name).touch()
        with (box.folder / "written.jsonl").open("wb") as written:
            written.write(line("a"))
            written.flush()
            await seen(spool, 27)
            assert {one.name: one.reason for one in spool.seen.examples} == {
                "empty.jsonl": "it is empty",
                "folder.jsonl": "it is a folder",
                "link.jsonl": "it is a link",
                "pipe.jsonl": "it is no file but a pipe, socket or device",
                "written.jsonl": "a process has it open for writing",
                **{f"{number:03}.json": "its name does not end in .jsonl" for number in range(5)},
            }
        await box.until("done", "written.jsonl")
        for path in box.folder.glob("*.json"):
            path.unlink()
        await seen(spool, 6)
        last = [(one.name, one.reason) for one in spool.seen.examples[-2:]]
        assert last == [("batch", "it is a folder"), ("tasks.ndjson", "its name does not end in .jsonl")]


async def test_a_folder_that_cannot_be_used_is_told_until_it_can(box: Box) -> None:
    box.folder.touch()
    spool = Spool(box.folder, box.control)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(spool.run)
        with anyio.fail_after(DEADLINE_S):
            while spool.seen.trouble != f"{box.folder / 'taken'}: Not a directory":  # noqa: ASYNC110 - as above
                await anyio.sleep(0.01)
        box.folder.unlink()
        await seen(spool, 0)
        tasks.cancel_scope.cancel()


async def test_what_a_crash_left_half_taken_is_taken_once(box: Box) -> None:
    for place in ("taken", "rejected"):
        (box.folder / place).mkdir(parents=True)
    # One whose tasks were submitted before it could be moved on, and one whose report alone was written.
    await box.control.submit([TaskRecord("a", "What is a?", "42", None, {})])
    (box.folder / "taken" / "a.jsonl").write_bytes(line("a") + line("b"))
    (box.folder / "taken" / "bad.jsonl").write_bytes(b"{\n")
    (box.folder / "rejected" / "bad.jsonl.report.json").write_bytes(b"{}")
    async with taking(box):
        await box.until("done", "a.jsonl")
        await box.until("rejected", "bad.jsonl", "bad.jsonl.report.json")
    assert await box.tasks() == ["a", "b"]
    assert box.report("bad.jsonl")["reasons"]
    assert box.files("taken") == []


async def test_names_that_are_no_text_or_very_long_hold_nothing_up(box: Box) -> None:
    long = "x" * 249 + ".jsonl"
    async with taking(box):
        box.move_in(os.fsdecode(b"\xff.jsonl"), b"{\n")
        box.move_in(long, b"{\n")
        box.move_in("good.jsonl", line("good"))
        await box.until("done", "good.jsonl")
        cut = "x" * 200 + ".jsonl"
        odd = os.fsdecode(b"\xff.jsonl")
        await box.until("rejected", odd, f"{odd}.report.json", cut, f"{cut}.report.json")
        box.move_in(long, b"{\n")
        again = "x" * 200 + "-2.jsonl"
        names = (odd, cut, again)
        await box.until("rejected", *names, *(f"{name}.report.json" for name in names))


class Flaky(LocalControl):
    """A queue whose disk is full for the first file, once, and which trips over the second."""

    def __init__(self, control: LocalControl) -> None:
        self._control = control
        self.refusals = 1

    async def submit(self, records: Sequence[TaskRecord], *, run: str | None = None, priority: int = 0) -> Submitted:
        """Submit, or not."""
        if records[0].name == "first" and self.refusals:
            self.refusals -= 1
            raise StorageTroubleError("full", "the disk is full", "free some space")
        if records[0].name == "second":
            raise ZeroDivisionError("a defect")
        return await self._control.submit(records, run=run, priority=priority)


async def test_trouble_with_one_file_holds_up_no_other_and_is_tried_again(box: Box) -> None:
    async with taking(box, Flaky(box.control)):
        box.move_in("1.jsonl", line("first"))
        box.move_in("2.jsonl", line("second"))
        box.move_in("3.jsonl", line("third"))
        await box.until("done", "1.jsonl", "3.jsonl")
        await box.until("rejected", "2.jsonl", "2.jsonl.report.json")
    assert box.report("2.jsonl")["reasons"] == ["it met a defect of the program: ZeroDivisionError: a defect"]
    assert sorted(await box.tasks()) == ["first", "third"]


async def test_a_folder_that_is_taken_away_is_made_again(box: Box) -> None:
    async with taking(box):
        for place in ("taken", "done", "rejected"):
            (box.folder / place).rmdir()
        box.folder.rmdir()
        with anyio.fail_after(DEADLINE_S):
            while not all((box.folder / place).is_dir() for place in ("done", "rejected")):  # noqa: ASYNC110 - as above
                await anyio.sleep(0.01)
        box.move_in("a.jsonl", line("a"))
        await box.until("done", "a.jsonl")
    assert stat.S_ISDIR((box.folder / "taken").stat().st_mode)


async def test_a_file_that_the_machine_keeps_from_being_read_is_tried_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([errno.EMFILE, errno.EIO])
    read = read_tasks

    def refuse_at_first(path: Path, *, strict: bool, folder: Path) -> TaskFile:
        number = next(refusals, None)
        if number is None:
            return read(path, strict=strict, folder=folder)
        raise TaskFileError(path, [os.strerror(number)]) from OSError(number, os.strerror(number))

    monkeypatch.setattr(runtime.spool, "read_tasks", refuse_at_first)
    async with taking(box):
        box.move_in("a.jsonl", line("a"))
        await box.until("done", "a.jsonl")
    assert box.files("rejected") == []
    assert next(refusals, None) is None
