"""`cso serve` as a process: it takes work from others, stops in stages, and leaves nothing behind however it ends."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from runtime.agents.main.replies import render_reply
from runtime.api.app import STOPPING
from runtime.notice import living_notice
from tests.acceptance.daemons import DEADLINE_S, ServeProcess, environ_for, serve
from tests.acceptance.programs import cso
from tests.acceptance.scripted import Ask, Script, ScriptedModels, scripted_models
from tests.cli.typed import write_tasks
from tests.crash.processes import descendants, wait_until_gone

SCRIPT = Script(actions=("print(1)", "stop('42', '')"))


class Gate:
    """Models that go by the script; replies to chosen calls wait until the gate is opened."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.reached = anyio.Event()
        self.opened = anyio.Event()

    async def answer(self, ask: Ask) -> str | int:
        """Answer, once it is time."""
        if ask.module == self.module:
            self.reached.set()
            await self.opened.wait()
        return await SCRIPT.answer(ask)


async def reached(event: anyio.Event) -> None:
    with anyio.fail_after(DEADLINE_S):
        await event.wait()


async def get(url: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def post_task(url: str, name: str) -> tuple[int, dict[str, Any]]:
    body = {"tasks": [{"record": {"id": name, "question": f"What is the answer to {name}?", "answer": "42"}}]}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/tasks", json=body) as response:
        return response.status, await response.json()


def places(models: ScriptedModels) -> list[tuple[str, ...]]:
    return [(ask.role, ask.module, ask.trajectory, str(ask.step)) for ask in models.asks]


async def test_sigterm_waits_for_replies_that_are_paid_for_and_nothing_is_bought_twice(data: Path) -> None:
    gate = Gate("action")
    async with scripted_models(gate.answer) as models:
        environ = environ_for(models.url, data)
        async with serve(environ=environ) as daemon:
            url = (await daemon.said("ready"))["url"]
            submitted = await cso("submit", write_tasks(data.parent / "a.jsonl", ["a", "b"]), environ=environ)
            assert (submitted.status, submitted.output) == (0, "2 tasks taken into run default\n")
            await reached(gate.reached)
            assert await get(f"{url}/healthz") == (200, {"status": "working"})
            daemon.send(signal.SIGTERM)
            await daemon.said("stopping: nothing new is begun (a second signal stops at once)")
            assert await get(f"{url}/healthz") == (503, {"status": "stopping"})
            refused = await post_task(url, "c")
            assert refused == (503, {"error": STOPPING})
            gate.opened.set()
            assert await daemon.ended() == 0
            assert daemon.lines[-1]["event"] == "stopped"
        before = places(models)
        direct = await cso("submit", write_tasks(data.parent / "b.jsonl", ["c"]), "--json", environ=environ)
        assert (direct.json["run"], direct.json["new"], direct.json["daemon"]) == ("default", 1, False)
        async with serve(environ=environ) as daemon:
            resumed = await daemon.said("work resumed")
            assert resumed["deliveries"] == 3
            assert resumed["calls"] == len(before)
            for name in ("a", "b", "c"):
                await daemon.said("task finished", run="default", task=name)
            daemon.send(signal.SIGINT)
            assert await daemon.ended() == 0
        assert len(places(models)) == len(set(places(models)))


async def test_nothing_outlives_a_daemon_that_is_killed_and_the_next_one_goes_on(data: Path) -> None:
    running = anyio.Event()

    async def busy(ask: Ask) -> str | int:
        if ask.role == "policy" and ask.module == "action":
            running.set()
            return render_reply("Wait.", "import time\ntime.sleep(3600)")
        return await SCRIPT.answer(ask)

    async with scripted_models(busy) as models:
        environ = environ_for(models.url, data)
        async with serve(environ=environ) as daemon:
            await post_task((await daemon.said("ready"))["url"], "a")
            await reached(running)
            code = await until_code_runs(daemon)
            second = await cso("serve", "--port", "0", environ=environ)
            assert second.status == 1
            assert f"is in use by process {daemon.pid}" in second.said
            daemon.send(signal.SIGKILL)
            assert await daemon.ended() == -signal.SIGKILL
            assert await wait_until_gone(code) == []
        assert (data / "daemon.json").exists()
        assert living_notice(data) is None
        asked = len(models.asks)
        async with serve(environ=environ) as daemon:
            await daemon.said("work resumed", deliveries=1, trajectories=1, calls=asked)
            code = await until_code_runs(daemon)
            daemon.send(signal.SIGTERM)
            await daemon.said("stopped", signal="SIGTERM")
            assert await daemon.ended() == 0
            assert await wait_until_gone(code) == []
        assert len(models.asks) == asked


async def until_code_runs(daemon: ServeProcess) -> set[Any]:
    """Wait until a process of the sandbox runs code; all processes below the daemon."""
    with anyio.fail_after(DEADLINE_S):
        # Nobody tells us of the children of another process.
        while len(found := descendants(daemon.pid)) < 3:  # noqa: ASYNC110
            await anyio.sleep(0.02)
    return found


async def test_a_start_says_which_runs_have_work_that_is_not_done_and_why(data: Path) -> None:
    async with scripted_models(SCRIPT.answer) as models:
        environ = environ_for(models.url, data)
        tasks = await anyio.to_thread.run_sync(write_tasks, data.parent / "tasks.jsonl", ["a"])
        for name in ("old", "paused"):
            assert (await cso("submit", tasks, "--run", name, environ=environ)).status == 0
        assert (await cso("pause", "--run", "paused", environ=environ)).status == 0
        async with serve("--run", "new", environ={**environ, "CSO_RUN__SEED": "5"}) as daemon:
            left = await daemon.said("run left alone: it was begun with other settings", run="old")
            assert left["changed"] == "run.seed"
            told = await daemon.said("run is paused", run="paused")
            assert told["next"].startswith("`cso resume --run paused")
            daemon.send(signal.SIGTERM)
            assert await daemon.ended() == 0


async def test_a_spool_that_is_no_folder_is_a_mistake_of_the_configuration(data: Path) -> None:
    (data.parent / "spool").touch()
    ran = await cso("serve", "--spool", data.parent / "spool", environ=environ_for("http://127.0.0.1:9/v1", data))
    assert ran.status == 2
    assert f"error: queue.spool: {data.parent / 'spool'} is no folder" in ran.said


async def test_a_second_signal_stops_at_once(data: Path) -> None:
    gate = Gate("plan")
    async with scripted_models(gate.answer) as models:
        environ = environ_for(models.url, data)
        async with serve(environ=environ) as daemon:
            await post_task((await daemon.said("ready"))["url"], "a")
            await reached(gate.reached)
            children = descendants(daemon.pid)
            assert children
            daemon.send(signal.SIGTERM)
            await daemon.said("stopping: nothing new is begun (a second signal stops at once)")
            daemon.send(signal.SIGTERM)
            assert await daemon.ended() == 128 + signal.SIGTERM
            assert await wait_until_gone(children) == []


class Manager:
    """A service manager's end of sd_notify: what it was told, in order."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.told: list[dict[str, str]] = []

    async def until(self, **fields: str) -> dict[str, str]:
        """Wait for a datagram with these fields."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                await anyio.wait_readable(self._listener)
                text = self._listener.recv(4096).decode()
                self.told.append(dict(line.split("=", 1) for line in text.splitlines()))
                if fields.items() <= self.told[-1].items():
                    return self.told[-1]


@pytest.fixture
async def manager(data: Path) -> AsyncIterator[tuple[Manager, Path]]:
    path = data.parent / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        yield Manager(listener), path


async def test_a_service_manager_hears_of_start_life_reload_and_stop(
    data: Path, manager: tuple[Manager, Path]
) -> None:
    ears, path = manager
    config, spool = data.parent / "config.toml", data.parent / "spool"
    config.write_text("[run]\nrollouts = 4\n")
    async with scripted_models(SCRIPT.answer) as models:
        environ = environ_for(models.url, data) | {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}
        del environ["CSO_RUN__ROLLOUTS"]
        async with serve("--config", config, "--spool", spool, environ=environ) as daemon:
            ready = await ears.until(READY="1")
            assert ready["MAINPID"] == str(daemon.pid)
            await ears.until(WATCHDOG="1")
            assert "0 of 4 rollouts" in (await ears.until(WATCHDOG="1"))["STATUS"]

            config.write_text(
                "[run]\nrollouts = 2\n[log]\nlevel = 'debug'\n[critical]\nbad_max = 0.1\n[bus]\nqueue = 9\n"
            )
            daemon.send(signal.SIGHUP)
            assert int((await ears.until(RELOADING="1"))["MONOTONIC_USEC"]) > 0
            await ears.until(READY="1")
            await daemon.said("setting changed", key="run.rollouts", old=4, new=2)
            await daemon.said("setting changed", key="log.level", old="info", new="debug")
            refused = await daemon.said("setting not changed", key="critical.bad_max")
            assert "part of what the runs are" in refused["why"]
            assert "started again" in (await daemon.said("setting not changed", key="bus.queue"))["why"]
            assert "0 of 2 rollouts" in (await ears.until(WATCHDOG="1"))["STATUS"]

            for broken in ("[run]\nrollouts = 0\n", "[run\n", f"[run]\nrollouts = {'9' * 5000}\n", None):
                heard = len(daemon.lines)
                config.unlink() if broken is None else config.write_text(broken)
                daemon.send(signal.SIGHUP)
                await daemon.said("configuration not read: everything stays as it was", after=heard)
                await ears.until(READY="1")

            write_tasks(data.parent / "moved.jsonl", ["m"]).rename(spool / "moved.jsonl")
            await daemon.said("task file taken", file="moved.jsonl", new=1, known=0)
            await daemon.said("task finished", task="m")
            assert [path.name for path in (spool / "done").iterdir()] == ["moved.jsonl"]
            assert "rejected" not in (await cso("status", environ=environ)).output
            bad = data.parent / "bad.jsonl"
            bad.write_text("no JSON\n")
            bad.rename(spool / "bad.jsonl")
            await daemon.said("task file rejected", file="bad.jsonl")
            rows = (await cso("status", environ=environ)).output
            assert f"1 task file rejected: see what is wrong with each in {spool}/rejected" in " ".join(rows.split())

            daemon.send(signal.SIGTERM)
            stopping = await ears.until(STOPPING="1")
            assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 120 * 1_000_000
            assert await daemon.ended() == 0


async def until_caught(daemon: ServeProcess, number: signal.Signals) -> None:
    """Wait until a signal that would end the daemon is heard by it."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            status = await anyio.Path(f"/proc/{daemon.pid}/status").read_text()
            if int(status.partition("\nSigCgt:")[2].split()[0], 16) >> (number - 1) & 1:
                return
            await anyio.sleep(0.002)


async def test_a_hangup_during_the_start_takes_full_effect_and_one_during_a_stop_has_none(data: Path) -> None:
    gate = Gate("action")
    asking, all_ask = 0, anyio.Event()

    async def count(ask: Ask) -> str | int:
        nonlocal asking
        asking += ask.module == "action"
        if asking == 3:
            all_ask.set()
        return await gate.answer(ask)

    config = data.parent / "config.toml"
    config.write_text("[run]\nrollouts = 1\n")
    async with scripted_models(count) as models:
        environ = environ_for(models.url, data)
        del environ["CSO_RUN__ROLLOUTS"]
        tasks = await anyio.to_thread.run_sync(write_tasks, data.parent / "tasks.jsonl", ["a", "b", "c"])
        assert (await cso("submit", tasks, environ=environ)).status == 0
        async with serve("--config", config, environ=environ) as daemon:
            await until_caught(daemon, signal.SIGHUP)
            config.write_text("[run]\nrollouts = 3\n")
            daemon.send(signal.SIGHUP)
            await daemon.said("setting changed", key="run.rollouts", old=1, new=3)
            await reached(all_ask)
            daemon.send(signal.SIGTERM)
            await daemon.said("stopping: nothing new is begun (a second signal stops at once)")
            config.write_text("[run]\nrollouts = 2\n")
            for _ in range(3):
                daemon.send(signal.SIGHUP)
            gate.opened.set()
            assert await daemon.ended() == 0
        assert [line["new"] for line in daemon.lines if line.get("event") == "setting changed"] == [3]
        assert len(places(models)) == len(set(places(models)))
