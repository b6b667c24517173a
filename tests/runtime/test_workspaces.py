"""Workspaces: restored exactly, byte for byte, whatever the code left behind."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from runtime.sandbox.child import tree
from runtime.workspaces import Workspace, WorkspaceLimits, Workspaces, WorkspaceTooLargeError
from store.blobs import Packed
from store.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
async def workspaces(tmp_path: Path) -> Workspaces:
    made = Workspaces(tmp_path / "data" / "workspaces", WorkspaceLimits(max_files=20, max_mb=1))
    await made.clear()
    return made


async def keep(workspace: Workspace, database: Database) -> int | None:
    capture = await workspace.capture()
    manifest, blob = await database.write(capture.store)
    workspace.remember(capture, manifest)
    return blob


def snapshot(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        kind: object = "folder"
        if path.is_symlink():
            kind = str(path.readlink())
        elif path.is_file():
            kind = (path.read_bytes(), stat.S_IMODE(status.st_mode))
        found[str(path.relative_to(folder))] = kind
    return found


async def test_a_workspace_that_could_not_be_removed_is_empty_when_it_is_opened_again(
    workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, _seconds: float) -> None:
        raise OSError(errno.EMFILE, "Too many open files", path)

    with capture_logs() as said, monkeypatch.context() as patched:
        async with workspaces.open("a") as workspace:
            (workspace.path / "left").write_text("behind")
            patched.setattr(tree, "remove", refuse)
    assert (workspace.path / "left").exists()
    assert [(line["log_level"], line["folder"]) for line in said] == [("info", str(workspace.path))]
    async with workspaces.open("a") as again:
        assert list(again.path.iterdir()) == []
    assert not again.path.exists()


async def test_a_restored_workspace_equals_the_captured_one(database: Database, workspaces: Workspaces) -> None:
    async with workspaces.open("a") as first:
        (first.path / "deep" / "er").mkdir(parents=True)
        (first.path / "deep" / "er" / "data.bin").write_bytes(bytes(range(256)))
        (first.path / "run.sh").write_text("#!/bin/sh\n")
        (first.path / "run.sh").chmod(0o750)
        (first.path / "empty").mkdir()
        (first.path / "link").symlink_to("/etc/hostname")
        (first.path / "naïve \udcff name").write_text("odd")
        before = snapshot(first.path)
        blob = await keep(first, database)
    async with workspaces.open("b") as second:
        (second.path / "left over").write_text("from another rollout")
        await second.restore(database, blob)
        assert snapshot(second.path) == before


async def test_restoring_undoes_what_later_steps_did(database: Database, workspaces: Workspaces) -> None:
    async with workspaces.open("a") as workspace:
        (workspace.path / "ledger").write_text("1")
        first = await keep(workspace, database)
        (workspace.path / "ledger").write_text("2")
        (workspace.path / "more").write_text("x")
        second = await keep(workspace, database)
        await workspace.restore(database, first)
        assert snapshot(workspace.path).keys() == {"ledger"}
        assert (workspace.path / "ledger").read_text() == "1"
        await workspace.restore(database, second)
        assert (workspace.path / "ledger").read_text() == "2"
        await workspace.restore(database, None)
        assert snapshot(workspace.path) == {}


async def test_equal_workspaces_are_one_manifest(database: Database, workspaces: Workspaces) -> None:
    async with workspaces.open("a") as workspace:
        (workspace.path / "same").write_text("content")
        first = await keep(workspace, database)
        second = await keep(workspace, database)
    assert first == second


async def test_a_file_that_changed_without_changing_its_size_is_captured(
    database: Database, workspaces: Workspaces
) -> None:
    async with workspaces.open("a") as workspace:
        path = workspace.path / "f"
        path.write_text("old")
        times = path.stat()
        first = await keep(workspace, database)
        path.write_text("new")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert await keep(workspace, database) != first


async def test_pipes_and_sockets_are_left_out_and_links_not_followed(
    database: Database, workspaces: Workspaces, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    async with workspaces.open("a") as workspace:
        os.mkfifo(workspace.path / "pipe")
        (workspace.path / "way out").symlink_to(tmp_path / "outside")
        blob = await keep(workspace, database)
        await workspace.restore(database, blob)
        assert snapshot(workspace.path) == {"way out": str(tmp_path / "outside")}
    assert (tmp_path / "outside" / "secret").read_text() == "s"


async def test_files_without_permissions_are_captured_and_removed(database: Database, workspaces: Workspaces) -> None:
    async with workspaces.open("a") as workspace:
        folder = workspace.path / "locked"
        folder.mkdir()
        (folder / "f").write_text("x")
        (folder / "f").chmod(0)
        folder.chmod(0)
        assert await keep(workspace, database) is not None
    assert not workspace.path.exists()


@pytest.fixture
async def roomy(tmp_path: Path) -> Workspaces:
    made = Workspaces(tmp_path / "data" / "workspaces", WorkspaceLimits(max_files=1000))
    await made.clear()
    return made


def nest(folder: Path, names: Iterable[str]) -> None:
    """Make folders in folders, which no path may be long enough to name."""
    here = os.open(folder, os.O_RDONLY)
    try:
        for name in names:
            os.mkdir(name, 0o500, dir_fd=here)
            os.chmod(name, 0o700, dir_fd=here)
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open("file", os.O_CREAT, 0o600, dir_fd=here))
    finally:
        os.close(here)


@pytest.mark.parametrize("names", [["d"] * 101, ["d" * 200] * 30, ["d"] * 3000])
async def test_folders_that_are_too_deep_are_refused_and_removed(
    database: Database, roomy: Workspaces, names: list[str]
) -> None:
    for _ in range(2):
        async with roomy.open("a") as workspace:
            nest(workspace.path, names)
            with pytest.raises(WorkspaceTooLargeError, match="more than 100 deep, or paths of more than 2048 bytes"):
                await workspace.capture()
            await workspace.restore(database, None)
            assert not await anyio.Path(workspace.path / names[0]).exists()
            nest(workspace.path, names)
        assert not await anyio.Path(workspace.path).exists()
    root = workspace.path.parent
    nest(root, names)
    await roomy.clear()
    assert [path async for path in anyio.Path(root).iterdir()] == []


async def test_what_an_earlier_process_left_and_cannot_be_removed_in_time_keeps_nobody_from_starting(
    workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workspaces.open("a") as workspace:
        root = workspace.path.parent
    (root / "left").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("runtime.workspaces._REMOVE_DEADLINE_S", -1.0)
        await workspaces.clear()
    assert await anyio.Path(root / "left").is_dir()
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    async with workspaces.open("left") as workspace:
        assert (await workspace.capture()).entries == {}


async def test_a_restored_file_makes_nobody_its_owner_and_a_workspace_is_closed_until_code_has_it(
    database: Database, workspaces: Workspaces
) -> None:
    async with workspaces.open("a") as workspace:
        assert stat.S_IMODE(workspace.path.stat().st_mode) == 0o700
        file, folder = workspace.path / "file", workspace.path / "folder"
        file.write_text("#!/bin/sh\n")
        file.chmod(0o6755)
        folder.mkdir()
        folder.chmod(0o3777)
        capture = await workspace.capture()
        _, blob = await database.write(capture.store)
        await workspace.restore(database, blob)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (file, folder)] == [0o755, 0o777]


async def test_what_is_taken_beyond_the_end_of_a_file_counts(workspaces: Workspaces) -> None:
    async with workspaces.open("a") as workspace:
        with (workspace.path / "file").open("wb") as file:
            ended = await anyio.run_process(["fallocate", "--keep-size", "--length", "3M", file.name], check=False)
        if ended.returncode:
            pytest.skip("the file system takes no room beyond a file's end")
        with pytest.raises(WorkspaceTooLargeError, match="1 MB"):
            await workspace.capture()


async def test_files_of_zeros_take_no_memory(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path / "workspaces", WorkspaceLimits(max_mb=256))
    await workspaces.clear()
    async with workspaces.open("a") as workspace:
        for number in range(4):
            with (workspace.path / str(number)).open("wb") as file:
                file.truncate(32 << 20)
        capture = await workspace.capture()
    held = sum(len(entry.data) for entry in capture.entries.values() if isinstance(entry, Packed))
    assert held < 1 << 20


async def test_links_come_back_as_they_were_written_and_folders_of_pipes_as_folders(
    database: Database, workspaces: Workspaces
) -> None:
    async with workspaces.open("a") as workspace:
        (workspace.path / "pipes").mkdir()
        os.mkfifo(workspace.path / "pipes" / "pipe")
        (workspace.path / "link").symlink_to("./x//y/")
        capture = await workspace.capture()
        _, blob = await database.write(capture.store)
        await workspace.restore(database, blob)
        assert os.readlink(workspace.path / "link") == "./x//y/"  # noqa: PTH115 - a Path would tidy it up
        assert [path async for path in anyio.Path(workspace.path / "pipes").iterdir()] == []
        for number in range(100):
            os.mkfifo(workspace.path / "pipes" / str(number))
        with pytest.raises(WorkspaceTooLargeError, match="80 entries of any kind"):
            await workspace.capture()


async def test_folders_as_deep_as_may_be_come_back(database: Database, roomy: Workspaces) -> None:
    async with roomy.open("a") as workspace:
        nest(workspace.path, ["d" * 19] * 100)
        capture = await workspace.capture()
        manifest, blob = await database.write(capture.store)
        workspace.remember(capture, manifest)
        await workspace.restore(database, None)
        await workspace.restore(database, blob)
        assert await anyio.Path(workspace.path.joinpath(*["d" * 19] * 100, "file")).is_file()


async def test_too_many_files_and_too_many_bytes_are_refused(workspaces: Workspaces) -> None:
    async with workspaces.open("a") as workspace:
        for number in range(21):
            (workspace.path / str(number)).touch()
        with pytest.raises(WorkspaceTooLargeError, match="20 files"):
            await workspace.capture()
    async with workspaces.open("links") as workspace:
        for number in range(11):
            (workspace.path / f"link {number}").symlink_to("anywhere")
            (workspace.path / f"folder {number}").mkdir()
        with pytest.raises(WorkspaceTooLargeError, match="20 files, links and empty folders"):
            await workspace.capture()
    async with workspaces.open("b") as workspace:
        (workspace.path / "big").write_bytes(bytes((1 << 20) + 1))
        with pytest.raises(WorkspaceTooLargeError, match="1 MB"):
            await workspace.capture()


async def test_a_workspace_is_made_where_all_around_it_has_been_cleaned_away(
    workspaces: Workspaces, tmp_path: Path
) -> None:
    async with workspaces.open("before"):
        pass
    shutil.rmtree(tmp_path / "data")
    async with workspaces.open("a") as workspace:
        assert workspace.path.is_dir()
        assert workspace.path.parent.stat().st_mode & 0o777 == 0o711
