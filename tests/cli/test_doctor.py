"""`cso doctor` says what is wrong with a machine and a data directory, for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from runtime.cli.doctor import line_of
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.database import FILE_NAME, Database
from store.health import Finding
from tests.acceptance.programs import cso
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
    assert "FAIL  version     " in result.stdout
    assert result.stdout.count("is damaged (file is not a database)") == 1
    assert "→ put a backup in its place" in result.stdout


def test_before_the_first_run_there_is_nothing_to_complain_of(tmp_path: Path) -> None:
    result = doctor("--data", str(tmp_path / "absent"))
    assert result.returncode == 0
    assert "holds no run yet" in result.stdout
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / FILE_NAME).touch()
    result = doctor("--data", str(tmp_path / "absent"))
    assert (result.returncode, "FAIL" in result.stdout, "holds no run yet" in result.stdout) == (0, False, True)


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


async def test_each_replica_of_each_role_is_called_once_and_programs_get_what_it_takes(tmp_path: Path) -> None:
    async with SimulationServer(World.generate(1, 1)) as good, SimulationServer(World.generate(1, 1)) as other:
        url, root, second = good.base_url, good.root_url, other.base_url
        config = tmp_path / "config.toml"
        config.write_text(
            f'[models.policy]\nbase_url = ["{url}", "{second}"]\nmodel = "sim-policy"\n'
            f'[models.expert]\nbase_url = "{url}"\nmodel = "sim-expert"\n'
            f'[models.prm]\nbase_url = "{root}/v9"\nmodel = "sim-prm"\n'
        )
        words = ("doctor", "--config", config, "--data", tmp_path / "data")
        ran, told = await cso(*words, "--json"), await cso(*words)
        assert len(other.record.entries) == 2
    found = [one for one in ran.json["findings"] if "url" in one]
    assert [(one["check"], one["level"], one["url"]) for one in found] == [
        ("policy", "ok", url),
        ("policy", "ok", second),
        ("expert", "ok", url),
        ("prm", "fail", f"{root}/v9"),
    ]
    assert found[0]["latency"] > 0
    assert found[0]["capabilities"]["limit_name"] == "max_tokens"
    assert (ran.status, ran.json["ok"], told.status) == (1, False, 1)
    assert "calling 4 endpoints" in told.said
    assert f"FAIL  prm         {root}/v9: base_url has the wrong path" in told.output
    assert f'→ base_url = "{url}"' in told.output


@pytest.mark.parametrize(
    ("config", "level", "status"),
    [
        ("", "warn", 0),
        ('[models.policy]\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "m"\n', "FAIL", 1),
        ("[agent]\nmax_stps = 3\n", "FAIL", 1),
    ],
)
async def test_a_configuration_that_no_run_could_begin_with_fails_once_it_names_a_model(
    tmp_path: Path, config: str, level: str, status: int
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(config)
    ran = await cso("doctor", "--config", file, "--data", tmp_path / "data")
    assert ran.status == status
    assert f"{level}  endpoints   not called: " in ran.output


async def test_models_that_only_the_published_variables_name_are_called(tmp_path: Path) -> None:
    async with SimulationServer(World.generate(1, 1), api_key="their-key") as server:
        target = f"{server.base_url}/chat/completions"
        environ = {"LLM_URL": target, "RPM_MODEL_URL": target, "OPENAI_API_KEY": "sk-not-for-them"}
        (tmp_path / "config.toml").touch()
        words = ("doctor", "--config", tmp_path / "config.toml", "--data", tmp_path / "data")
        ran = await cso(*words, environ=environ)
    assert "note: LLM_URL serves the expert as well" in ran.said
    assert ran.output.count("the key was refused") == 3
    assert "no key is sent: put it into a variable and name that in models.prm.api_key_env" in ran.output
    assert "sk-not-for-them" not in ran.output


def test_on_a_terminal_lines_are_wrapped_under_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    finding = Finding(check="policy", level="fail", text="words " * 20, next_step="do this " * 10)
    lines = line_of(finding).splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].startswith(" " * 18 + "words")
    assert next(line for line in lines if line.lstrip().startswith("→")).startswith(" " * 18 + "→ do this")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert len(line_of(finding).splitlines()) == 2
