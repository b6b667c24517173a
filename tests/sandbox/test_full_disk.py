"""Code that fails because the disk is full has not failed by its own fault, and is not blamed."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from runtime.errors import InfrastructureError
from runtime.sandbox import Ending, ProcessSandbox
from runtime.workspaces import WorkspaceLimits, Workspaces
from store.trouble import full_folders
from tests.disks import fill, small_disk
from tests.sandbox.conftest import TEST_LIMITS

# By their folder's name: Python's tempfile would go on elsewhere.
USES_TEMPORARY_FILES = "import os\nopen(os.environ['TMPDIR'] + '/file', 'wb').write(bytes(2_000_000))"
FAILS = "1 / 0"


@pytest.fixture
async def disk(folders: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A small disk of its own for temporary files."""
    folder = folders() / "tmp"
    folder.parent.chmod(0o711)
    with small_disk(folder, megabytes=8):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        yield folder
        monkeypatch.undo()


async def test_code_that_fails_while_there_is_no_room_for_temporary_files_is_not_blamed(
    disk: Path, workspace: Path
) -> None:
    async with ProcessSandbox() as sandbox:
        assert (await sandbox.run(USES_TEMPORARY_FILES, workspace=workspace, tools={}, limits=TEST_LIMITS)).ok
        filler = fill(disk)
        with pytest.raises(
            InfrastructureError, match=f"disk of temporary files is full.*free some space in {disk}"
        ) as e:
            await sandbox.run(USES_TEMPORARY_FILES, workspace=workspace, tools={}, limits=TEST_LIMITS)
        assert full_folders(e.value) == {disk}  # which is what work then waits for
        # What needs none of them goes on.
        assert (await sandbox.run("print(1)", workspace=workspace, tools={}, limits=TEST_LIMITS)).ok
        filler.unlink()
        failed = await sandbox.run(FAILS, workspace=workspace, tools={}, limits=TEST_LIMITS)
        assert failed.ending is Ending.EXCEPTION


async def test_code_that_fills_the_disk_of_temporary_files_itself_has_failed(disk: Path, workspace: Path) -> None:
    assert tempfile.gettempdir() == str(disk)
    code = "import os\nfor n in range(9):\n    open(f'{os.environ[\"TMPDIR\"]}/{n}', 'wb').write(bytes(1_000_000))"
    async with ProcessSandbox() as sandbox:
        failed = await sandbox.run(code, workspace=workspace, tools={}, limits=TEST_LIMITS)
    assert failed.ending is Ending.EXCEPTION
    assert "No space left on device" in (failed.error or "")


def make_files(folder: Path, number: int) -> None:
    for name in range(number):
        Path(folder, str(name)).touch()


async def test_what_code_left_where_no_more_files_fit_does_not_count(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=8, files=64):
        workspaces = Workspaces(tmp_path / "disk" / "workspaces", WorkspaceLimits())
        await workspaces.clear()
        async with workspaces.open("a") as workspace:
            assert not (await workspace.capture()).entries
            with pytest.raises(OSError, match="No space left"):
                make_files(workspace.path, 64)
            with pytest.raises(InfrastructureError, match="the disk was full"):
                await workspace.capture()
        await workspaces.remove()
