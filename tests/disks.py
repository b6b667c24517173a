"""Real file systems of a few megabytes, for tests of what happens when they are full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[None]:
    """Mount a file system in memory on a folder, which is made; skips the test where that is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, check=False, text=True)
    if made.returncode != 0:
        pytest.skip(f"mounting a small file system is not permitted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no room on a file system; removing the file that this returns makes room again."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 20, 65536, 4096):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))
    return file
