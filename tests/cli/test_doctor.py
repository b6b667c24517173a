"""`cso doctor` says what is wrong with a machine and a data directory, for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from store.database import FILE_NAME, Database
from tests.store.test_retention import two_runs


def doctor(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.cli.main", "doctor", "--no-endpoints", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    anyio.run(two_runs, tmp_path)
    return tmp_path


def test_a_sound_directory_exits_with_0_and_one_line_for_each_check(folder: Path) -> None:
    result = doctor("--data", str(folder))
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line for line in result.stdout.splitlines() if not line.lstrip().startswith("→")]
    # Other parts of the program may add checks of their own.
    wanted = ["sandbox", "descriptors", "directory", "lock", "space", "version", "WAL", "integrity", "references"]
    told = [line.split()[1] for line in lines]
    assert [name for name in told if name in wanted] == wanted
    assert "FAIL" not in result.stdout


def test_a_program_gets_one_object(folder: Path) -> None:
    result = doctor("--data", str(folder), "--json", "--quick")
    report = json.loads(result.stdout)
    assert (result.returncode, report["ok"], report["data"]) == (0, True, str(folder))
    assert {"check": "integrity", "level": "ok", "text": "quick_check: ok", "next_step": ""} in report["findings"]
    assert "garbage" not in {finding["check"] for finding in report["findings"]}


def test_a_damaged_database_exits_with_1_and_names_the_next_step(folder: Path) -> None:
    (folder / FILE_NAME).write_bytes(b"x" * 8192)
    result = doctor("--data", str(folder))
    assert (result.returncode, result.stderr) == (1, "")
    assert "FAIL  integrity" in result.stdout
    assert "→ put a backup in its place" in result.stdout


def test_before_the_first_run_there_is_nothing_to_complain_of(tmp_path: Path) -> None:
    result = doctor("--data", str(tmp_path / "absent"))
    assert result.returncode == 0
    assert "holds no run yet" in result.stdout


async def test_it_works_while_someone_writes(folder: Path) -> None:
    async with Database(folder) as database, anyio.create_task_group() as tasks:

        async def write() -> None:
            while True:
                await database.write(lambda t: t.execute("UPDATE runs SET paused = 1 - paused"))

        tasks.start_soon(write)
        result = await anyio.to_thread.run_sync(doctor, "--data", str(folder))
        tasks.cancel_scope.cancel()
    assert result.returncode == 0, result.stdout
    assert f"process {os.getpid()} is working on the directory" in result.stdout
