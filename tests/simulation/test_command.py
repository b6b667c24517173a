"""The server as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.simulation.standins import Habits, Standins
from runtime.simulation.world import World
from tests.simulation import asking

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """The server as a process, with its first line; killed in the end if it is still there."""
    command = [sys.executable, "-m", "runtime.simulation.server", "--seed", "3", "--tasks", "12", *options]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            yield server, json.loads(server.stdout.readline())
        finally:
            server.kill()


def ask(base_url: str, body: object) -> tuple[int, Any]:
    """Send a request; return status and reply."""
    url = f"{base_url}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310 (our own server's address)
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
        return response.status, json.load(response)


def test_the_process_answers_as_the_world_of_its_options_and_ends_on_sigterm(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    world = World.generate(3, 12, shortest=6, longest=7)
    request = asking.action(world.tasks[5], 2)
    with process("--shortest", "6", "--longest", "7", "--thinking", "1", "--record", str(record)) as (server, ready):
        status, reply = ask(ready["base_url"], request)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0
    assert status == 200
    assert ready["tasks"] == 12
    assert reply["choices"][0]["message"]["content"] == Standins(world, Habits(thinking=1)).reply(request)
    assert json.loads(record.read_text())["body"] == request


def test_it_ends_with_its_parent_where_that_was_asked_for() -> None:
    with process("--until-eof") as (server, ready):
        assert ready["base_url"].startswith("http://127.0.0.1:")
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(timeout=20) == 0


def test_faults_and_latency_can_be_given_as_options() -> None:
    options = ("--fault", "stall=0.25", "--fault", "empty=0.5", "--latency", "0.01", "--capacity", "9")
    with process(*options) as (_, ready), urllib.request.urlopen(f"{ready['root_url']}/sim/faults") as response:  # noqa: S310
        settings = json.load(response)
    assert settings["rates"] == {"stall": 0.25, "empty": 0.5}
    assert (settings["latency"], settings["capacity"]) == (0.01, 9)


def test_options_that_make_no_sense_are_refused_before_listening() -> None:
    command = [sys.executable, "-m", "runtime.simulation.server", "--fault", "earthquake=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"earthquake" in done.stderr
    assert done.stdout == b""
