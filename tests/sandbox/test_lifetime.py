"""No process outlives the sandbox, and no sandbox outlives its daemon, however they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from runtime.errors import InfrastructureError
from runtime.sandbox import JsonValue, ProcessSandbox
from runtime.sandbox.child import leftovers
from runtime.sandbox.child.leftovers import PREFIX
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
            scratch = sandbox._zygote.scratch if sandbox._zygote else Path()
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
        assert not first.scratch.exists()


async def test_a_zygote_removes_what_killed_ones_have_left_and_nothing_else(
    folders: Callable[[], Path],
) -> None:
    parent, elsewhere = Path(tempfile.gettempdir()), folders()
    left, held, young = (Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)) for _ in range(3))
    (left / "7" / "deep").mkdir(parents=True)
    (left / "7" / "file").write_text("of code")
    (elsewhere / "precious").touch()
    link = parent / f"{PREFIX}{elsewhere.name}"
    link.symlink_to(elsewhere)
    for folder in (left, held, elsewhere):
        os.utime(folder, (0, 0))
    descriptor = leftovers.hold(str(held))
    try:
        async with ProcessSandbox() as sandbox:
            await sandbox.ready()
            with anyio.fail_after(20):
                while left.exists():  # noqa: ASYNC110 - another process removes it
                    await anyio.sleep(0.01)
            execution = await sandbox.run("print(1)", workspace=folders(), tools={}, limits=TEST_LIMITS)
            assert execution.output == "1\n"
        assert held.exists()
        assert young.exists()
        assert (elsewhere / "precious").exists()
    finally:
        os.close(descriptor)
        link.unlink()
        held.rmdir()
        young.rmdir()


async def test_a_zygote_that_does_not_answer_is_replaced(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("_BEGIN_S", "_STOP_S", "_MOP_S"):
        monkeypatch.setattr(f"runtime.sandbox.session.{wait}", 0.5)
    async with ProcessSandbox() as sandbox:
        await sandbox.ready()
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


async def test_an_interpreter_that_does_not_work_is_told_at_the_start() -> None:
    for python in ("/bin/false", "/nowhere/python3"):
        with pytest.raises(InfrastructureError, match="zygote did not start"):
            async with ProcessSandbox(python=Path(python)) as sandbox:
                await sandbox.ready()


async def test_a_sandbox_that_is_left_before_it_has_come_up_leaves_nothing_behind() -> None:
    async with ProcessSandbox() as sandbox:
        pass
    await gone(*left_of(sandbox))


DAEMON = """
import os, sys, time
from pathlib import Path
import anyio
from runtime.sandbox import Limits, ProcessSandbox

async def main() -> None:
    async with ProcessSandbox() as sandbox:
        async def begin() -> None:
            if sys.argv[2] == "forking" and os.fork() == 0:
                time.sleep(1000)
            print(sandbox._marker, file=sys.stderr, flush=True)

        code = Path(sys.argv[3]).read_text()
        await sandbox.run(code, workspace=Path(sys.argv[1]), tools={"begin": begin}, limits=Limits())

anyio.run(main)
"""


@contextlib.asynccontextmanager
async def busy_daemon(workspace: Path, tmp_path: Path, kind: str) -> AsyncIterator[tuple[Process, str]]:
    """A process with a sandbox in which code is running, and the marker of that sandbox."""
    (tmp_path / "code").write_text(BUSY)
    command = [sys.executable, "-c", DAEMON, str(workspace), kind, str(tmp_path / "code")]
    async with await anyio.open_process(command, stdout=subprocess.DEVNULL, start_new_session=True) as daemon:
        assert daemon.stderr is not None
        try:
            marker = (await daemon.stderr.receive()).decode().strip()
            # Besides the code, its fork and its program, zygote and supervisor are seen by root alone.
            assert len(marked(marker)) >= 3
            yield daemon, marker
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_is_left_of_a_daemon_that_was_killed(
    workspace: Path, tmp_path: Path, number: signal.Signals
) -> None:
    async with busy_daemon(workspace, tmp_path, "plain") as (daemon, marker):
        daemon.send_signal(number)
        await gone(*marked(marker))
        assert marked(marker) == set()


async def test_a_daemon_that_forked_takes_its_sandbox_along_all_the_same(workspace: Path, tmp_path: Path) -> None:
    """A fork holds copies of all sockets, so that they do not tell of the daemon's death."""
    async with busy_daemon(workspace, tmp_path, "forking") as (daemon, marker):
        daemon.kill()
        await gone(*marked(marker))
        assert marked(marker) == set()
