"""`cso gc` says what it forgets, and what keeps it from forgetting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio

from store.database import Database
from tests.store.test_retention import two_runs


def gc(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.cli.main", "gc", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))


def test_what_would_be_dropped_is_dropped_and_then_there_is_no_more(tmp_path: Path) -> None:
    anyio.run(two_runs, tmp_path, 1000)
    args = ("--data", str(tmp_path), "--workspaces-of-finished-runs")
    wanted = gc(*args, "--dry-run")
    assert wanted.stdout.splitlines() == [
        "would drop 1,002 texts and files, 2.0 MB stored",
        "would drop the files of 1 steps",
    ]
    done = json.loads(gc(*args, "--json").stdout)
    assert (done["blobs"], done["workspaces"], done["dry_run"]) == (1002, 1, False)
    assert done["freed"] == done["size_before"] - done["size_after"] > 2_000_000
    assert gc(*args).stdout.startswith("dropped 0 texts and files, 0 bytes stored\ndatabase: ")


async def test_a_daemon_at_work_is_named(tmp_path: Path) -> None:
    await two_runs(tmp_path)
    async with Database(tmp_path):
        result = await anyio.to_thread.run_sync(gc, "--data", str(tmp_path))
    assert result.returncode == 1
    assert f"is in use by process {os.getpid()}: wait for it, stop it" in result.stderr


def test_a_folder_without_a_run_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    assert "holds no run" in gc("--data", str(tmp_path)).stderr
    (tmp_path / "cso.sqlite3").write_bytes(b"x" * 8192)
    result = gc("--data", str(tmp_path))
    assert result.returncode == 4
    assert "is damaged (file is not a database): see `cso doctor" in result.stderr
