"""Folders are handed over, repaired and emptied without touching anything outside."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.sandbox.child import tree


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "folder"
    path.mkdir()
    descriptor = tree.open_folder(str(path))
    yield path, descriptor
    os.close(descriptor)


def test_a_link_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="Not a directory"):
        tree.open_folder(str(tmp_path / "link"))


def test_emptying_removes_everything_and_follows_no_link(folder: tuple[Path, int], tmp_path: Path) -> None:
    path, descriptor = folder
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (path / "a/b").mkdir(parents=True)
    (path / "a/b/link").symlink_to(tmp_path / "kept")
    (path / "a/file").touch()
    (path / "link").symlink_to(tmp_path / "kept")
    os.mkfifo(path / "a/fifo")
    (path / "a/b").chmod(0)
    tree.empty(descriptor, 5.0)
    assert list(path.iterdir()) == []
    assert (tmp_path / "kept/file").exists()


def test_emptying_knows_no_depth(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    here = os.open(path, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    tree.empty(descriptor, 20.0)
    assert list(path.iterdir()) == []


def test_emptying_stops_when_its_time_is_up(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    (path / "file").touch()
    tree.empty(descriptor, -1.0)
    assert (path / "file").exists()


def test_what_its_owner_may_not_read_is_made_readable(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    (path / "a/b").mkdir(parents=True)
    (path / "a/b/file").touch()
    (path / "script").touch()
    (path / "script").chmod(0o555)
    for closed in (path / "a/b/file", path / "a/b", path / "a", path):
        closed.chmod(0)
    tree.make_readable(descriptor, 5.0)
    assert [p.stat().st_mode & 0o777 for p in (path, path / "a", path / "a/b")] == [0o700] * 3
    assert (path / "a/b/file").stat().st_mode & 0o777 == 0o400
    assert (path / "script").stat().st_mode & 0o777 == 0o555


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_handing_over_leaves_files_with_a_second_name_to_their_owner(
    folder: tuple[Path, int], tmp_path: Path
) -> None:
    path, descriptor = folder
    (tmp_path / "precious").touch()
    (path / "second").hardlink_to(tmp_path / "precious")
    (path / "a").mkdir()
    (path / "a/file").touch()
    (path / "a/own").touch()
    (path / "a/link").symlink_to(tmp_path / "precious")
    os.chown(path / "a/own", 70_001, 70_001)
    (path / "own").hardlink_to(path / "a/own")
    tree.hand_over(descriptor, 70_005, range(70_000, 70_010))
    owners = {p.name: p.lstat().st_uid for p in (path, *path.rglob("*"))}
    assert owners == {"folder": 70_005, "second": 0, "a": 70_005, "file": 70_005, "own": 70_005, "link": 70_005}
    assert (tmp_path / "precious").stat().st_uid == 0
    assert path.stat().st_mode & 0o777 == 0o700


def test_memory_is_bounded_however_many_files_a_folder_holds(folder: tuple[Path, int]) -> None:
    path, descriptor = folder
    for number in range(10_000):
        (path / f"file-{number}").touch()
    tracemalloc.start()
    try:
        tree.make_readable(descriptor, 20.0)
        tree.empty(descriptor, 20.0)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert list(path.iterdir()) == []
