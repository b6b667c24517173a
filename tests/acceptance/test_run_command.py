"""`cso run`, `status` and `export` on a user's own task file; the environment says where the endpoint is."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.simulation.record import TRACE_HEADERS
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from tests.acceptance.programs import Ran, cso
from tests.folders import reachable_folder

KEY = "sk-simulated-0123456789abcdef"
KEYS_OF_THE_SUMMARY = {
    "tasks",
    "trajectories",
    "steps_scored",
    "critical_candidates",
    "branches",
    "pairs",
    "supervised_share",
    "calls",
    "tokens",
    "dataset",
}


@dataclass(frozen=True, slots=True)
class Users:
    """What a user has: a task file in a form of their own, an environment that names the endpoint, and a run."""

    folder: Path
    server: SimulationServer
    ran: Ran

    @property
    def data(self) -> Path:
        """The data directory."""
        return data_in(self.folder)

    @property
    def tasks(self) -> Path:
        """The task file."""
        return tasks_in(self.folder)

    @property
    def environ(self) -> dict[str, str]:
        """What is set in the user's shell."""
        return environ_of(self.folder, self.server)

    def requests(self) -> list[tuple[str, ...]]:
        """What the server was asked, as often as it was asked."""
        return [
            (entry.digest, *(entry.headers[name] for name in TRACE_HEADERS)) for entry in self.server.record.entries
        ]


def data_in(folder: Path) -> Path:
    return folder / "data"


def tasks_in(folder: Path) -> Path:
    return folder / "tasks.jsonl"


def environ_of(folder: Path, server: SimulationServer) -> dict[str, str]:
    found = {"OPENAI_API_KEY": KEY, "CSO_RUN__ROLLOUTS": "6", "CSO_RUN__DATA": str(data_in(folder))}
    for role in ("policy", "expert", "prm"):
        found[f"CSO_MODELS__{role.upper()}__BASE_URL"] = f"{server.base_url}/chat/completions"
        found[f"CSO_MODELS__{role.upper()}__MODEL"] = f"sim-{role}"
    return found


@pytest.fixture(scope="module")
async def users() -> AsyncIterator[Users]:
    """A user who has typed `cso run` once."""
    world = World.generate(11, 7)
    async with SimulationServer(world, api_key=KEY) as server:
        with reachable_folder() as folder:
            await anyio.to_thread.run_sync(write_as_gaia, world, tasks_in(folder))
            ran = await cso("run", tasks_in(folder), "--json", environ=environ_of(folder, server))
            yield Users(folder, server, ran)


def write_as_gaia(world: World, path: Path) -> None:
    """The world's tasks with the names that GAIA's files have, and three lines that are none."""
    lines = []
    for number, task in enumerate(world.tasks):
        record: dict[str, Any] = {"task_id": task.name, "Question": task.question, "Final answer": task.answer}
        for name, text in task.files.items():
            (path.parent / name).write_text(text)
            record["file_name"] = name
        lines.append(json.dumps(record))
        if number == 2:
            lines.append('{"Question": "cut off')
        if number == 4:
            lines += [json.dumps({"Question": "Without an answer?"}), "[1, 2]"]
    path.write_text("\n".join(lines) + "\n")


async def test_a_users_tasks_become_pairs(users: Users) -> None:
    assert users.ran.status == 0, users.ran.said
    found, made = users.ran.json, users.requests()
    assert found["tasks"] == found["tasks_finished"] == 7
    assert found["pairs"] > 0
    assert found["trajectories"]["error"] == found["branches"]["error"] == 0
    assert len(made) == len(set(made)) == sum(found["calls"].values())


async def test_the_same_command_again_calls_nobody(users: Users) -> None:
    made = users.requests()
    again = await cso("run", users.tasks, "--json", environ=users.environ)
    assert again.status == 0
    assert again.json == users.ran.json
    assert users.requests() == made


async def test_bad_lines_are_told_with_their_numbers_and_counted_at_the_end(users: Users) -> None:
    told = users.ran.said.splitlines()
    for line in (4, 7, 8):
        assert any(f"{users.tasks}:{line}" in text or f"line {line}" in text for text in told), told
    assert any("3 bad lines" in text for text in told)


async def test_strict_refuses_a_file_with_bad_lines_before_anything_is_called(users: Users) -> None:
    made = users.requests()
    elsewhere = {**users.environ, "CSO_RUN__DATA": str(users.folder / "strict")}
    ran = await cso("run", users.tasks, "--strict", environ=elsewhere)
    assert ran.status != 0
    assert "tasks.jsonl" in ran.said
    assert users.requests() == made


async def test_a_run_with_changed_settings_is_refused_with_the_difference(users: Users) -> None:
    made = users.requests()
    changed = {**users.environ, "CSO_CRITICAL__GOOD_MIN": "0.7", "CSO_MODELS__EXPERT__TEMPERATURE": "0.1"}
    ran = await cso("run", users.tasks, "--json", environ=changed)
    assert ran.status == 2
    for part in ("critical.good_min", "0.6", "0.7", "models.expert.temperature", "0.8", "0.1"):
        assert part in ran.said
    assert ran.output == ""
    assert users.requests() == made


async def test_what_does_not_decide_results_may_change_between_two_sittings(users: Users) -> None:
    made = users.requests()
    patient = {**users.environ, "CSO_RUN__ROLLOUTS": "2", "CSO_MODELS__POLICY__TIMEOUT": "50"}
    ran = await cso("run", users.tasks, "--json", environ=patient)
    assert ran.status == 0
    assert users.requests() == made


async def test_status_and_export_tell_what_the_run_told(users: Users) -> None:
    status = await cso("status", "--data", users.data, "--json")
    assert status.status == 0
    told, ran = status.json["runs"][0] if "runs" in status.json else status.json, users.ran.json
    assert told.keys() >= KEYS_OF_THE_SUMMARY
    assert ran.keys() >= KEYS_OF_THE_SUMMARY
    assert told["trajectories"].keys() >= {"success", "failure", "error"}
    for name in ("tasks", "pairs", "calls", "tokens", "branches"):
        assert told[name] == ran[name]
    out = users.folder / "out"
    exported = await cso("export", "--data", users.data, "--format", "llamafactory", "--out", out)
    assert exported.status == 0
    rows = json.loads((out / "verified_cso_dpo.json").read_text())
    assert len(rows) == ran["pairs"]
    assert json.loads((out / "dataset_info.json").read_text())["verified_cso_dpo"]["ranking"] is True


async def test_no_key_is_in_anything_that_is_stored_or_said(users: Users) -> None:
    assert KEY not in users.ran.output + users.ran.said
    held = [path for path in users.data.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert held == []


async def test_a_wrong_key_stops_the_run_and_names_the_variable_that_holds_it(users: Users) -> None:
    wrong = {
        **users.environ,
        "OPENAI_API_KEY": "sk-wrong-wrong-wrong",
        "CSO_RUN__DATA": str(users.folder / "refused"),
        "CSO_BUS__ATTEMPTS": "1",
    }
    ran = await cso("run", users.tasks, "--json", environ=wrong)
    assert ran.status == 1
    assert "OPENAI_API_KEY" in ran.said + ran.output
    assert "sk-wrong" not in ran.said + ran.output
    assert ran.json["pairs"] == ran.json["trajectories"]["failure"] == 0


async def test_a_wrong_port_is_told_at_once_in_one_line_with_what_to_check(users: Users) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    wrong = {
        **users.environ,
        "CSO_MODELS__POLICY__BASE_URL": url,
        "CSO_MODELS__POLICY__ATTEMPTS": "2",
        "CSO_MODELS__POLICY__BACKOFF": "0.001",
        "CSO_RUN__DATA": str(users.folder / "unreached"),
        "CSO_BUS__ATTEMPTS": "2",
        "CSO_BUS__DELAY": "0.001",
    }
    ran = await cso("run", users.tasks, "--json", environ=wrong)
    assert ran.status == 1
    (line,) = [line for line in ran.said.splitlines() if "cannot be reached" in line]
    assert (
        f"the policy endpoint at {url} cannot be reached: connection refused. Next: start the server there, "
        "or correct host and port in base_url; it is tried again meanwhile"
    ) in line
    (letter,) = ran.json["set_aside"]
    assert letter["cause"] == "endpoint policy: cannot connect: connection refused"


async def test_a_new_run_that_ends_early_names_the_command_that_goes_on_with_it(users: Users) -> None:
    environ = {**users.environ, "CSO_RUN__DATA": str(users.folder / "several"), "CSO_BUDGET__CALLS": "3"}
    for name in ("default", "default-2"):
        ran = await cso("run", users.tasks, "--new-run", environ=environ)
        assert ran.status == 3
        again = f"the same command with `--run {name}` instead of --new-run goes on"
        assert f" of 3): raise it, {again}" in ran.said


async def test_a_paused_run_is_not_worked_on_and_the_next_step_is_said(users: Users) -> None:
    made = users.requests()
    await cso("pause", environ=users.environ)
    ran = await cso("run", users.tasks, "--json", environ=users.environ)
    assert (ran.status, ran.output) == (2, "")
    assert "error: run 'default' is paused: take it up again with `cso resume --run default" in ran.said
    assert (await cso("resume", environ=users.environ)).output == "run default is not paused any more\n"
    assert users.requests() == made
