"""`cso gc` says what it forgets, and what keeps it from forgetting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio

from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.database import Database, Reader
from store.export import Pair, load_pairs
from store.health import Patient, check_integrity, check_references, examine
from store.retention import collect_garbage
from store.runs import list_runs
from tests.acceptance.running import records_of, settings_for, work
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


async def test_a_run_goes_on_after_its_garbage_was_collected_and_its_pairs_are_what_they_were(data: Path) -> None:
    world = World.generate(11, 6)
    async with SimulationServer(world) as server:
        settings, records = settings_for(server.base_url, data), records_of(world, data)
        begun = await work(settings, records[:3], search=WorldSearch(world))
        before = await pairs_in(data)
        collected = await anyio.to_thread.run_sync(partial(collect_garbage, data, finished_workspaces=True))
        assert collected.workspaces > 0
        assert await pairs_in(data) == before
        asked = len(server.record.entries)
        again = await work(settings, records[:3], search=WorldSearch(world))
        assert (again.pairs, len(server.record.entries)) == (begun.pairs, asked)
        ended = await work(settings, records, search=WorldSearch(world))
        assert (ended.tasks_finished, ended.owed, ended.set_aside) == (6, 0, [])
        assert (await pairs_in(data))[: len(before)] == before
    # Nothing is left that would want the files that were given up.
    assert (await anyio.to_thread.run_sync(partial(collect_garbage, data, finished_workspaces=True))).workspaces > 0
    assert {finding.level for finding in examine(Patient(data), (check_integrity, check_references))} == {"ok"}


async def pairs_in(data: Path) -> list[Pair]:
    async with Reader(data) as reader:
        (run,) = await list_runs(reader)
        return [pair async for pair in load_pairs(reader, run)]
