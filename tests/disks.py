"""Real file systems of a few megabytes, for tests of what happens when they are full or fail."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, *, megabytes: int, files: int = 0) -> Iterator[None]:
    """Mount a file system in memory on a folder, which is made; skips the test where that is not permitted.

    Args:
        files: how many it can hold, where it is not as many as fit.
    """
    folder.mkdir()
    options = f"size={megabytes}m,mode=0711" + (f",nr_inodes={files}" if files else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, check=False, text=True)
    if made.returncode != 0:
        pytest.skip(f"mounting a small file system is not permitted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass(frozen=True, slots=True)
class FailingDisk:
    """A file system on a device of its own that turns read-only when it meets an error, as disks of machines do."""

    folder: Path
    image: Path

    def fail(self) -> None:
        """Let it meet an error, whatever has files open for writing."""
        device = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(self.folder)], check=True, capture_output=True, text=True
        ).stdout.strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")

    def mend(self) -> None:
        """Have it checked and mounted again; nothing may have files open on it."""
        subprocess.run(["umount", str(self.folder)], check=True)
        # 1: errors were found and corrected.
        assert subprocess.run(["e2fsck", "-fp", str(self.image)], check=False, capture_output=True).returncode <= 1
        subprocess.run(_loop_mount(self.image, self.folder), check=True)


@contextlib.contextmanager
def failing_disk(folder: Path, *, megabytes: int) -> Iterator[FailingDisk]:
    """Mount such a file system on a folder, which is made; skips the test where that is not permitted."""
    folder.mkdir()
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    for command in (["mkfs.ext4", "-q", str(image)], _loop_mount(image, folder)):
        try:
            made = subprocess.run(command, capture_output=True, check=False, text=True)
        except FileNotFoundError as error:
            pytest.skip(f"{error.filename} is not installed")
        if made.returncode != 0:
            pytest.skip(f"mounting a file system from a file is not permitted here: {made.stderr.strip()}")
    folder.chmod(0o711)
    try:
        yield FailingDisk(folder, image)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _loop_mount(image: Path, folder: Path) -> list[str]:
    return ["mount", "-o", "loop,errors=remount-ro", str(image), str(folder)]


def fill(folder: Path) -> Path:
    """Leave no room on a file system; removing the file that this returns makes room again."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 20, 65536, 4096):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))
    return file
