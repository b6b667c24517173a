"""A rehearsal works through the user's tasks with simulated models, and tells what the real thing would take."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from runtime.config.settings import Settings
from runtime.rehearsal import forecast
from runtime.simulation.search import WorldSearch
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from runtime.simulation.world import write_tasks as write_world_tasks
from store.formats.task_files import read_tasks
from store.spending import Spent, Stage
from store.summary import Outcomes, Summary
from tests.acceptance.programs import cso
from tests.acceptance.running import settings_for, work

PRICED = '[prices."their-{role}"]\nprompt = 2.0\ncompletion = 8.0\n'


def write_configuration(folder: Path, url: str, *, priced: tuple[str, ...]) -> Path:
    parts = [
        f'[models.{role}]\nbase_url = "{url}"\nmodel = "their-{role}"\napi_key_env = ""\n'
        for role in ("policy", "expert", "prm")
    ]
    parts += [PRICED.format(role=role) for role in priced]
    parts.append(f'[run]\ndata = "{folder / "data"}"\ntrajectories = 2\n[budget]\ncalls = 1\n')
    path = folder / "config.toml"
    path.write_text("".join(parts))
    return path


def write_tasks(folder: Path, count: int) -> Path:
    path = folder / "tasks.jsonl"
    lines = [{"id": f"t{n}", "question": f"What is item {n} of the list?", "answer": str(n)} for n in range(count)]
    path.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
    return path


async def test_a_rehearsal_calls_no_endpoint_leaves_no_file_and_scales_to_all_tasks(tmp_path: Path) -> None:
    async with SimulationServer(World.generate(1, 1)) as theirs:
        config = write_configuration(tmp_path, theirs.base_url, priced=("policy", "expert", "prm"))
        tasks = write_tasks(tmp_path, 12)
        words = ("run", tasks, "--config", config, "--rehearse", "--sample", "3", "--failures", "0.5", "--json")
        ran = await cso(*words)
        assert theirs.record.entries == []
    assert ran.status == 0
    assert "simulated" in ran.said
    assert not (tmp_path / "data").exists()
    told = ran.json
    assert told["simulated"] is True
    based = told["assumptions"]
    assert (based["tasks"], based["sample"], based["failure_share"]) == (12, 3, 0.5)
    assert based["trajectories_per_task"] == 2
    assert based["steps_per_trajectory"] >= 4
    assert told["total"]["calls"] == pytest.approx(sum(one["calls"] for one in told["by_role"].values()))
    assert told["total"]["cost"] == pytest.approx(sum(one["cost"] for one in told["by_stage"].values()))
    assert set(told["by_role"]) == {"policy", "expert", "prm"}
    assert told["unpriced"] == []


async def test_a_rehearsal_on_the_worlds_own_tasks_foretells_about_what_the_run_takes(data: Path) -> None:
    world = World.generate(7, 12)
    tasks = write_world_tasks(world, data.parent / "tasks")
    async with SimulationServer(world) as server:
        records = read_tasks(tasks, strict=True).tasks
        took = await work(settings_for(server.base_url, data), list(records), search=WorldSearch(world))
    share = took.trajectories.failure / took.tasks
    ran = await cso("run", tasks, "--rehearse", "--failures", str(share), "--data", data, "--json")
    for stage, told in ran.json["by_stage"].items():
        calls = sum(one.calls for one in took.spending if one.stage == stage)
        assert 0.8 * calls <= told["calls"] <= 2 * calls, stage
    told = ran.json["total"]
    tokens = sum(one.prompt_tokens + one.completion_tokens for one in took.spending)
    assert tokens <= told["prompt_tokens"] + told["completion_tokens"] <= 2 * tokens


async def test_for_people_it_says_that_models_are_simulated_what_is_assumed_and_which_price_is_missing(
    tmp_path: Path,
) -> None:
    # Nobody listens on port 9: a rehearsal that asked there would fail.
    config = write_configuration(tmp_path, "http://127.0.0.1:9/v1", priced=("expert",))
    ran = await cso("run", write_tasks(tmp_path, 2), "--config", config, "--rehearse")
    assert ran.status == 0
    for words in (
        "SIMULATED",
        "60% of the policy's trajectories fail",
        "agent.max_steps allows 12",
        "candidate critical steps a failure",
    ):
        assert words in ran.output
    assert all(len(line) <= 80 for line in ran.output.splitlines())
    assert "[prices] has none for their-policy, their-prm" in ran.output


async def test_without_a_task_there_is_nothing_to_rehearse(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"id": "a", "question": "no answer?"}\n')
    ran = await cso("run", tasks, "--rehearse", "--data", tmp_path / "data")
    assert ran.status == 2
    assert "there is no task in it" in ran.said


def _spent(role: str, stage: Stage, calls: int, cost: float | None) -> Spent:
    return Spent(
        role=role,
        stage=stage,
        calls=calls,
        prompt_tokens=100 * calls,
        completion_tokens=10 * calls,
        cached_tokens=0,
        cost=cost,
        unpriced=calls if cost is None else 0,
        unmetered=0,
    )


def _summary(spending: list[Spent], *, failures: int, critical: int, branches: int) -> Summary:
    return Summary(
        run="rehearsal",
        paused=False,
        tasks=failures,
        tasks_finished=failures,
        tasks_cancelled=0,
        trajectories=Outcomes(failure=failures),
        steps_scored=5 * failures,
        steps_unscored=0,
        critical_candidates=critical,
        failed_steps=5 * failures,
        branches=Outcomes(failure=branches),
        controls=Outcomes(),
        pairs=0,
        supervised_share=None,
        calls={},
        tokens={},
        owed=0,
        put_off=0,
        resting_tasks=0,
        budget_spent=None,
        spending=spending,
        models={},
        resumed=None,
        newest=0,
    )


def test_each_stage_is_scaled_by_what_sets_it_off() -> None:
    spending = [
        _spent("policy", "collect", 40, 4.0),
        _spent("prm", "resample", 30, 3.0),
        _spent("policy", "verify", 20, 2.0),
    ]
    told = forecast(_summary(spending, failures=4, critical=2, branches=6), Settings(), tasks=100, failure_share=0.5)
    assert told.by_stage["collect"].calls == 40 / 4 * 100
    assert told.by_stage["resample"].calls == 30 / 4 * 50
    assert told.by_stage["verify"].calls == 20 / 2 * (50 * 2 / 4)
    assert told.by_role["policy"].cost == pytest.approx(100.0 + 25.0)
    assert told.assumptions.branches_per_critical_step == 3.0
    assert told.assumptions.reply_tokens_per_call == {"policy": 10.0, "prm": 10.0}


def test_a_rehearsal_without_a_critical_step_foretells_no_branches() -> None:
    told = forecast(
        _summary([_spent("policy", "collect", 10, None)], failures=1, critical=0, branches=0),
        Settings(),
        tasks=10,
        failure_share=1.0,
    )
    assert told.by_stage["verify"].calls == 0
    assert told.total.cost is None
    assert told.unpriced == ["the policy"]
