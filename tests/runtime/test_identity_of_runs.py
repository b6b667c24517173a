"""A run goes on only as what it was begun as, unless a person decides otherwise, which the log then tells."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.config.identity import digest, identity
from runtime.config.settings import Settings
from runtime.runs import RunChangedError, accept_changes, free_name, open_run
from store.candidates import NewCandidate, add_candidates
from store.database import Database, Reader
from store.errors import DataLockedError
from store.events import RunChanged, decode_event
from store.formats.task_files import TaskRecord
from store.pairs import Evidence, add_pair
from store.runs import find_run
from store.tasks import submit_task
from store.trajectories import begin_trajectory
from store.transaction import Transaction
from tests.store.filling import new_call


def settings(folder: Path, **sections: Any) -> Settings:  # Any: sections of the configuration as in its file
    run = {"data": folder, "name": "r", **sections.pop("run", {})}
    return Settings.model_validate({"run": run, **sections})


async def opened(chosen: Settings) -> str:
    async with Database(chosen.run.data) as database:
        return (await open_run(database, chosen, chosen.run.name)).digest


async def worked_on(chosen: Settings) -> None:
    """A run that has some evidence."""
    await opened(chosen)
    async with Database(chosen.run.data) as database:
        await database.write(lambda t: a_pair(t, 1))
        await new_call(database, 1, step=0)


async def test_going_on_with_the_same_settings_is_the_same_run(tmp_path: Path) -> None:
    first = await opened(settings(tmp_path))
    assert await opened(settings(tmp_path, run={"rollouts": 3})) == first == digest(identity(settings(tmp_path)))


async def test_going_on_with_other_settings_is_refused_with_both_values_and_what_to_do(tmp_path: Path) -> None:
    await worked_on(settings(tmp_path))
    changed = settings(tmp_path, agent={"max_steps": 20}, models={"policy": {"model": "m" * 100}})
    with pytest.raises(RunChangedError) as caught:
        await opened(changed)
    lines = str(caught.value).splitlines()
    assert lines[0] == "run 'r' was begun with other settings:"
    assert "  agent.max_steps: 12 → 20" in lines
    assert f'  models.policy.model: "" → {"m" * 60}…' in lines
    assert any("--new-run" in line for line in lines)
    assert any("--accept-changes" in line for line in lines)
    assert any("cso config" in line for line in lines)


async def test_a_run_without_evidence_takes_the_settings_that_it_is_gone_on_with(tmp_path: Path) -> None:
    first, corrected = settings(tmp_path), settings(tmp_path, models={"policy": {"model": "m"}})
    before = await opened(first)
    async with Database(tmp_path) as database:
        record = TaskRecord(name="t", question="Q?", answer="A", file=None, original={})
        await database.write(lambda t: submit_task(t, run=1, record=record))
    after = await opened(corrected)
    assert after == digest(identity(corrected)) != before
    async with Reader(tmp_path) as reader:
        run = await find_run(reader, "r")
        (row,) = await reader.fetch("SELECT body FROM events WHERE kind = 'run-changed'")
    assert run is not None
    assert (run.id, run.digest, run.identity) == (1, after, identity(corrected))
    assert b"models.policy.model" in row["body"]
    await worked_on(corrected)
    with pytest.raises(RunChangedError):
        await opened(first)


async def test_another_program_and_other_prompts_are_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await worked_on(settings(tmp_path))
    prompts = {"plan": "0" * 32, "score": "1" * 32, "judge": "2" * 32}
    # The package has a function of the module's name.
    module = sys.modules["runtime.config.identity"]
    monkeypatch.setattr(module, "_shipped", lambda: prompts)
    monkeypatch.setattr(module, "_version", lambda: "9.9.9")
    with pytest.raises(RunChangedError, match="begun with other program files:") as caught:
        await opened(settings(tmp_path))
    assert caught.value.changes["program.version"][1] == "9.9.9"
    assert caught.value.changes["program.prompts.plan"][1] == "0" * 32
    assert caught.value.changes["program.prompts.end"][1] is None
    assert "set them back" not in str(caught.value)
    # The judge's prompt counts where the judge is asked, and a shipped prompt only where it is not replaced.
    assert "program.prompts.judge" not in identity(settings(tmp_path))
    assert "program.prompts.judge" in identity(settings(tmp_path, judge={"method": "model"}))
    (tmp_path / "plan.txt").write_text("Plan.")
    own = identity(settings(tmp_path, agent={"prompts": {"plan": str(tmp_path / "plan.txt")}}))
    assert "program.prompts.plan" not in own
    assert "agent.prompts.plan" in own


def test_every_prompt_that_ships_counts() -> None:
    names = {key.removeprefix("program.prompts.") for key in identity(settings(Path(), judge={"method": "model"}))}
    assert {"plan", "action", "end", "score", "judge"} <= names


async def test_accepted_changes_are_in_the_log_and_each_pair_has_the_digest_it_was_made_under(tmp_path: Path) -> None:
    first, changed = settings(tmp_path), settings(tmp_path, agent={"max_steps": 20})
    before = await opened(first)
    async with Database(tmp_path) as database:
        await database.write(lambda t: a_pair(t, 1))
        await new_call(database, 1, step=0)
        with pytest.raises(DataLockedError):
            await accept_changes(changed)
    assert await accept_changes(changed) == {"agent.max_steps": (12, 20)}
    assert await accept_changes(changed) == {}
    after = await opened(changed)
    async with Database(tmp_path) as database:
        await database.write(lambda t: a_pair(t, 2))
    async with Reader(tmp_path) as reader:
        assert [row["digest"] for row in await reader.fetch("SELECT digest FROM pairs ORDER BY id")] == [
            before,
            after,
        ]
        (row,) = await reader.fetch("SELECT * FROM events WHERE kind = 'run-changed'")
        event = decode_event(row["kind"], run=1, task=None, seq=row["seq"], time=row["time"], body=row["body"])
        run = await find_run(reader, "r")
    assert isinstance(event, RunChanged)
    assert (event.before, event.digest, event.changes) == (before, after, {"agent.max_steps": [12, 20]})
    assert run is not None
    assert run.identity == identity(changed)
    with pytest.raises(RunChangedError):
        await opened(first)


async def test_a_run_to_which_no_model_has_replied_takes_other_settings(tmp_path: Path) -> None:
    mistyped, corrected = settings(tmp_path), settings(tmp_path, models={"policy": {"model": "m"}})
    await opened(mistyped)
    async with Database(tmp_path) as database:
        record = TaskRecord(name="t", question="Q?", answer="A", file=None, original={})
        await database.write(lambda t: submit_task(t, run=1, record=record))
        await database.write(lambda t: begin_trajectory(t, task=1, ordinal=0))
    assert await opened(corrected) == digest(identity(corrected))
    async with Database(tmp_path) as database:
        await new_call(database, 1, step=0)
    with pytest.raises(RunChangedError):
        await opened(mistyped)


def a_pair(transaction: Transaction, number: int) -> None:
    record = TaskRecord(name=f"t{number}", question="Q?", answer="A", file=None, original={})
    submit_task(transaction, run=1, record=record)
    (task,) = transaction.execute("SELECT max(id) FROM tasks").fetchone()
    trajectory = begin_trajectory(transaction, task=task, ordinal=0)
    candidate = NewCandidate(ordinal=1, action="a", call=None, duplicate_of=None, usable=True, score=0.9)
    add_candidates(transaction, trajectory=trajectory, step=0, candidates=[candidate])
    (chosen,) = transaction.execute("SELECT max(id) FROM candidates").fetchone()
    evidence = Evidence(successes=1, rollouts=1, control_successes=0, controls=0)
    add_pair(transaction, run=1, task=task, trajectory=trajectory, step=0, candidate=chosen, evidence=evidence)


async def test_a_run_that_was_never_begun_has_nothing_to_accept(tmp_path: Path) -> None:
    assert await accept_changes(settings(tmp_path)) == {}


async def test_a_new_run_gets_the_next_free_name(tmp_path: Path) -> None:
    assert await free_name(tmp_path, "r") == "r"
    for taken, free in (("r", "r-2"), ("r-2", "r-3")):
        await opened(settings(tmp_path, run={"name": taken}))
        assert await free_name(tmp_path, "r") == free
    assert await free_name(tmp_path, "other") == "other"


async def test_a_run_that_two_begin_at_once_is_begun_once(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    found: list[int] = []

    async def begin(database: Database) -> None:
        found.append((await open_run(database, chosen, "r")).id)

    async with Database(tmp_path) as database, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(begin, database)
    assert len(found) == 4
    assert len(set(found)) == 1
