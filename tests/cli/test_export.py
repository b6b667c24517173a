"""`cso export`: what another run has exported to a folder stays, unless somebody says otherwise."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import orjson

from store.database import Database
from store.formats.llamafactory import FILE_NAME
from store.pairs import Evidence, add_pair
from store.runs import create_run
from tests.cli.typed import typed
from tests.store.filling import new_run, new_trajectory, score_step


async def data_with_a_pair(folder: Path, digest: str) -> Path:
    """A data directory with a run `r` that has a pair, and a run `none` without one."""
    async with Database(folder) as database:
        run = await new_run(database)
        await database.write(lambda transaction: transaction.execute("UPDATE runs SET digest = ?", (digest,)))
        await database.write(partial(create_run, name="none", digest="d", identity={}))
        failed = await new_trajectory(database, steps=2, outcome="failure")
        _, alternative = await score_step(database, failed, 1, [0.1, 0.9])
        evidence = Evidence(successes=1, rollouts=1, control_successes=0, controls=0)
        await database.write(
            partial(add_pair, run=run.id, task=1, trajectory=failed, step=1, candidate=alternative, evidence=evidence)
        )
    return folder


async def test_the_pairs_of_another_run_are_replaced_only_where_somebody_says_so(tmp_path: Path) -> None:
    data, other = await data_with_a_pair(tmp_path / "data", "a"), await data_with_a_pair(tmp_path / "other", "b")
    out = tmp_path / "pairs"
    file = out / FILE_NAME
    for run in ("none", "r", "r"):  # nothing is lost with the empty list of the first
        assert (await typed("export", "--data", data, "--run", run, "--out", out)).status == 0
    (pair,) = orjson.loads(file.read_bytes())
    assert pair["provenance"]["digest"] == "a"
    advice = "name another folder with --out, or replace it with --force\n"
    for folder, run, whose in (
        (data, "none", "pairs of run r"),
        (other, "r", "pairs of another run r, of other data"),
    ):
        ran = await typed("export", "--data", folder, "--run", run, "--out", out)
        assert (ran.status, ran.output) == (2, "")
        assert ran.said == f"error: {file} holds {whose}: {advice}"
    assert orjson.loads(file.read_bytes()) == [pair]
    file.write_bytes(b"[1]")
    ran = await typed("export", "--data", data, "--run", "r", "--out", out)
    assert ran.said == f"error: {file} holds something else: {advice}"
    assert file.read_bytes() == b"[1]"
    assert (await typed("export", "--data", other, "--run", "r", "--out", out, "--force")).status == 0
    (replaced,) = orjson.loads(file.read_bytes())
    assert replaced["provenance"]["digest"] == "b"
