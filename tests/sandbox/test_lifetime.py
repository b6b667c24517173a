"""No process outlives the sandbox, and no sandbox outlives its daemon, however they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from runtime.errors import InfrastructureError
from runtime.sandbox import JsonValue, ProcessSandbox
from tests.sandbox.conftest import TEST_LIMITS, left_of, marked

BUSY = """
import os, subprocess
subprocess.Popen(["sleep", "1000"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    while True: pass
begin()
while True: pass
"""


async def gone(*pids: int) -> None:
    """Wait until processes have ended."""
    with anyio.fail_after(20):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    await anyio.wait_readable(pidfd)
                finally:
                    os.close(pidfd)


class Begun:
    """A tool that tells when the code has come so far."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    async def __call__(self) -> JsonValue:
        self.event.set()
        return None


async def test_leaving_the_sandbox_ends_what_runs(workspace: Path) -> None:
    begun = Begun()
    async with anyio.create_task_group() as tasks:
        async with ProcessSandbox() as sandbox:

            async def run() -> None:
                with pytest.raises(InfrastructureError):
                    await sandbox.run(BUSY, workspace=workspace, tools={"begin": begun}, limits=TEST_LIMITS)

            tasks.start_soon(run)
            await begun.event.wait()
            assert len(left_of(sandbox)) > 2
            scratch = sandbox._zygote._scratch if sandbox._zygote else Path()
        assert marked(sandbox._marker) == set()
    assert not scratch.exists()
    with pytest.raises(InfrastructureError, match="closed"):
        await sandbox.run("pass", workspace=workspace, tools={}, limits=TEST_LIMITS)


async def test_a_dead_zygote_is_noticed_at_once_and_replaced(workspace: Path, folders: Callable[[], Path]) -> None:
    begun = Begun()
    async with ProcessSandbox() as sandbox:
        first = sandbox._zygote
        assert first is not None

        async def run() -> None:
            with pytest.raises(InfrastructureError, match="zygote ended"):
                await sandbox.run(BUSY, workspace=workspace, tools={"begin": begun}, limits=TEST_LIMITS)

        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await begun.event.wait()
                os.kill(first._process.pid, signal.SIGKILL)
        assert left_of(sandbox) == set()
        execution = await sandbox.run("print(1)", workspace=folders(), tools={}, limits=TEST_LIMITS)
        assert execution.output == "1\n"
        assert not first._scratch.exists()


async def test_a_zygote_that_does_not_answer_is_replaced(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.sandbox.session._BEGIN_S", 0.5)
    async with ProcessSandbox() as sandbox:
        assert sandbox._zygote is not None
        os.kill(sandbox._zygote._process.pid, signal.SIGSTOP)
        with pytest.raises(InfrastructureError):
            await sandbox.run("pass", workspace=workspace, tools={}, limits=TEST_LIMITS)
        execution = await sandbox.run("print(1)", workspace=workspace, tools={}, limits=TEST_LIMITS)
        assert execution.output == "1\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root's code cannot signal its zygote")
async def test_code_that_kills_supervisor_and_zygote_is_swept_up_by_the_next_zygote(
    workspace: Path, folders: Callable[[], Path]
) -> None:
    async with ProcessSandbox() as sandbox:
        assert sandbox._zygote is not None
        code = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
time.sleep(0.1)
os.kill({sandbox._zygote._process.pid}, 9)
os.kill(os.getppid(), 9)
"""
        with pytest.raises(InfrastructureError):
            await sandbox.run(code, workspace=workspace, tools={}, limits=TEST_LIMITS)
        assert (await sandbox.run("pass", workspace=folders(), tools={}, limits=TEST_LIMITS)).ok
        await gone(*left_of(sandbox))


DAEMON = """
import anyio, sys
from pathlib import Path
from runtime.sandbox import Limits, ProcessSandbox
{before}

async def main() -> None:
    async with ProcessSandbox() as sandbox:
        async def begin() -> None:
            print(sandbox._marker, flush=True)

        await sandbox.run({code!r}, workspace=Path(sys.argv[1]), tools={{"begin": begin}}, limits=Limits())

anyio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_is_left_of_a_daemon_that_was_killed(workspace: Path, number: int) -> None:
    script = DAEMON.format(code=BUSY, before="")
    with subprocess.Popen(
        [sys.executable, "-c", script, workspace], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as daemon:
        assert daemon.stdout is not None
        marker = (await anyio.to_thread.run_sync(daemon.stdout.readline)).strip()
        assert len(marked(marker)) > 3
        daemon.send_signal(number)
    await gone(*marked(marker))
    assert marked(marker) == set()


async def test_a_daemon_that_forked_still_takes_its_sandbox_along(workspace: Path) -> None:
    """A fork holds copies of every socket, so that their ends do not tell of the daemon's death."""
    code = textwrap.dedent(BUSY)
    before = (
        "import os, time\ndef hold() -> None:\n    if os.fork() == 0:\n        time.sleep(30)\n        os._exit(0)\n"
    )
    script = DAEMON.format(code=code, before=before).replace("print(sandbox", "hold()\n            print(sandbox")
    with subprocess.Popen(
        [sys.executable, "-c", script, workspace], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as daemon:
        assert daemon.stdout is not None
        marker = (await anyio.to_thread.run_sync(daemon.stdout.readline)).strip()
        holder = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        daemon.kill()
        await gone(*marked(marker))
        assert marked(marker) == set()
        for pid in holder:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
