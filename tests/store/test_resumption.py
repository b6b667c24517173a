"""What an earlier process left open is counted, in a time that does not grow with what is finished."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from store.database import Database
from store.resumption import OpenWork, count_open_work
from store.transaction import SqlValues
from tests.store.filling import new_run, new_trajectory

SUBSCRIPTIONS = {"task-submitted": ["collect"]}


async def test_open_work_is_what_is_owed_in_the_run_and_what_its_rollouts_keep(tmp_path: Path) -> None:
    async with Database(tmp_path, subscriptions=SUBSCRIPTIONS) as database:
        run = await new_run(database, tasks=("done", "begun", "waiting", "set aside"))
        await new_run(database, "another", tasks=("waiting",))
        await new_trajectory(database, task=1, steps=3, outcome="success")
        await new_trajectory(database, task=2, steps=2)
        await new_trajectory(database, task=4, steps=1)
        await database.write(lambda transaction: transaction.execute("DELETE FROM deliveries WHERE task = 1"))
        await database.write(lambda transaction: transaction.execute("UPDATE deliveries SET dead = 1 WHERE task = 4"))
        assert await count_open_work(database, run.id) == OpenWork(
            begun=True, deliveries=2, trajectories=1, steps=2, calls=2
        )


async def test_open_work_is_found_through_deliveries_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[str] = []
    fetch = Database.fetch

    async def explain(database: Database, sql: str, values: SqlValues = ()) -> list[sqlite3.Row]:
        plans.extend(row["detail"] for row in await fetch(database, f"EXPLAIN QUERY PLAN {sql}", values))
        return await fetch(database, sql, values)

    async with Database(tmp_path, subscriptions=SUBSCRIPTIONS) as database:
        run = await new_run(database)
        monkeypatch.setattr(Database, "fetch", explain)
        await count_open_work(database, run.id)
    assert "SCAN deliveries" in plans
    assert not [plan for plan in plans if re.match(r"SCAN (?!deliveries|owed|begun|CONSTANT)|.*\b(tasks|k)\b", plan)]
