"""The doctor finds what is wrong, says what to do, and is no trouble to whoever is at work."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from store.database import FILE_NAME, Database
from store.health import DATABASE_CHECKS, DIRECTORY_CHECKS, Check, Finding, Patient, examine, readable_size
from store.requests import referenced_blobs
from tests.disks import fill, small_disk
from tests.store.test_retention import two_runs

ALL = (*DIRECTORY_CHECKS, *DATABASE_CHECKS)


def found(folder: Path, *, checks: tuple[Check, ...] = ALL, quick: bool = False) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(Patient(folder, quick=quick), checks)}


def change(folder: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def not_ok(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.level for name, finding in findings.items() if finding.level != "ok"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    anyio.run(two_runs, tmp_path)
    return tmp_path


@pytest.mark.parametrize("quick", [False, True])
def test_a_sound_directory_has_nothing_but_good_findings(folder: Path, quick: bool) -> None:
    findings = found(folder, quick=quick)
    # How much room this disk has is its own affair.
    assert not_ok(findings) in ({}, {"space": "warn"})
    assert ("garbage" in findings) is not quick
    assert "for each of 2 trajectories" in findings["space"].text


async def test_it_works_beside_a_daemon_and_says_who_that_is(folder: Path) -> None:
    async with Database(folder) as database:
        findings = found(folder)
        assert findings["lock"] == Finding(
            check="lock", level="ok", text=f"process {os.getpid()} is working on the directory"
        )
        await database.write(lambda t: t.blobs.text("still writing"))
    assert found(folder)["lock"].text == "nobody is working on the directory"


async def test_a_wal_that_was_removed_under_a_daemon_is_found(folder: Path) -> None:
    async with Database(folder) as database:
        await database.write(lambda t: t.blobs.text("something"))
        (folder / f"{FILE_NAME}-wal").unlink()
        findings = [finding for finding in examine(Patient(folder), DIRECTORY_CHECKS) if finding.level == "fail"]
    assert [finding.check for finding in findings] == ["lock"]
    assert "is missing although process" in findings[0].text


def test_a_lock_held_by_a_process_that_is_not_here_is_told(folder: Path) -> None:
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        (folder / "lock").write_text("999999999\n")
        finding = found(folder)["lock"]
        holder.communicate(b"\n", timeout=20)
    assert (finding.level, "999999999" in finding.text) == ("warn", True)


@pytest.mark.parametrize("damage", ["garbage", "header", "page"])
def test_a_damaged_file_is_told_of_once_by_the_first_check_that_needs_it_and_by_no_traceback(
    folder: Path, damage: str
) -> None:
    file = folder / FILE_NAME
    content = bytearray(file.read_bytes())
    if damage == "page":
        with contextlib.closing(sqlite3.connect(file)) as connection:
            (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'blobs'").fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        content[size * (root - 1) : size * root] = b"\xff" * size
    else:
        length = len(content) if damage == "garbage" else 100
        content[:length] = b"x" * length
    file.write_bytes(content)
    findings = found(folder)
    first = findings["integrity" if damage == "page" else "version"]
    assert first.level == "fail"
    assert "backup" in first.next_step
    texts = [finding.text for finding in findings.values() if finding.level == "fail"]
    assert len(texts) == len(set(texts))
    assert findings["directory"].level == findings["lock"].level == "ok"


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["DELETE FROM blobs WHERE id = (SELECT action FROM steps LIMIT 1)"], "lead nowhere (as "),
        (["DELETE FROM events WHERE seq IN (SELECT event FROM deliveries)"], "1 deliveries of missing events"),
        (["DELETE FROM steps WHERE trajectory = 1"], "1 judged trajectories without a step"),
        (
            [
                "INSERT INTO candidates SELECT 77, 1, 0, 1, action, call, NULL, 1, 0.9 FROM candidates LIMIT 1",
                "INSERT INTO pairs VALUES (1, 1, 0, 77, 'd', 1, 1, 0, 0)",
                "DELETE FROM candidates WHERE trajectory = 1 AND ordinal = 0",
            ],
            "1 pairs without their candidates or their request",
        ),
    ],
)
def test_a_record_without_what_it_refers_to_is_found(folder: Path, statements: Sequence[str], words: str) -> None:
    change(folder, *statements)
    finding = found(folder)["references"]
    assert finding.level == "fail"
    assert words in finding.text


def test_a_text_that_only_a_request_needs_is_missed(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        ((request,),) = connection.execute("SELECT request FROM calls WHERE id = 1")
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection, connection:
        connection.execute("DELETE FROM blobs WHERE id = ?", (max(referenced_blobs(request)),))
    finding = found(folder)["references"]
    assert finding.text == "1 texts or files that records need are missing"


def test_sums_that_do_not_add_up_and_a_request_that_cannot_be_read_are_told(folder: Path) -> None:
    change(folder, "UPDATE spending SET prompt_tokens = prompt_tokens + 1 WHERE run = 1")
    assert found(folder)["references"].text == "what runs have bought does not add up to the journal"
    change(folder, "UPDATE calls SET request = x'ff' WHERE id = 1")
    assert "a request cannot be read" in found(folder)["references"].text
    assert found(folder, quick=True)["references"].level == "ok"


def test_a_newer_database_and_one_without_a_wal_are_told(folder: Path) -> None:
    change(folder, "PRAGMA user_version = 999")
    assert found(folder)["version"].next_step == "install the release that wrote it"
    change(folder, "PRAGMA user_version = 1", "PRAGMA journal_mode = DELETE")
    assert found(folder)["version"].level == "warn"


def test_a_clock_that_was_set_back_is_told(folder: Path) -> None:
    change(folder, "UPDATE events SET time = time + 3600 * 1000000 WHERE seq = 1")
    finding = found(folder)["clock"]
    assert finding.level == "warn"
    assert "seconds ahead of the clock" in finding.text


async def test_much_garbage_is_worth_a_word(tmp_path: Path) -> None:
    await two_runs(tmp_path, garbage=1000)
    finding = found(tmp_path)["garbage"]
    assert (finding.level, finding.next_step) == ("warn", "run `cso gc`")
    assert finding.text.startswith("1000 unused texts or files (2.0 MB)")


def test_a_full_disk_and_a_missing_directory_are_told(tmp_path: Path) -> None:
    assert not_ok(found(tmp_path / "absent", checks=DIRECTORY_CHECKS))["directory"] == "warn"
    with small_disk(tmp_path / "disk", megabytes=2):
        fill(tmp_path / "disk")
        finding = found(tmp_path / "disk", checks=DIRECTORY_CHECKS)["directory"]
    assert finding.level == "fail"
    assert "is full (0.0 MB free)" in finding.text


def test_sizes_are_readable() -> None:
    assert [readable_size(size) for size in (12, 1500, 2_500_000, 3_000_000_000)] == [
        "12 bytes",
        "1.5 KB",
        "2.5 MB",
        "3.0 GB",
    ]
