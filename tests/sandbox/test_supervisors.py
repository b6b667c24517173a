"""A supervisor stays for the next execution of its workspace, and nothing else passes from one to the next."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from runtime.errors import InfrastructureError
from runtime.sandbox import Ending, ProcessSandbox
from runtime.sandbox.child import kin
from runtime.sandbox.child.output import Output
from runtime.sandbox.child.supervisor import drain
from tests.sandbox.conftest import TEST_LIMITS, Run

PARENT = "import os\nprint(os.getppid())"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give code a user of its own")


@pytest.fixture
async def narrow() -> AsyncIterator[ProcessSandbox]:
    """A sandbox in which every workspace comes to the same slot."""
    async with ProcessSandbox(slots=1) as sandbox:
        yield sandbox


async def output(sandbox: ProcessSandbox, code: str, workspace: Path) -> str:
    """What code printed that ran to its end."""
    execution = await sandbox.run(code, workspace=workspace, tools={}, limits=TEST_LIMITS)
    assert execution.ok, execution
    return execution.output


async def test_a_workspace_keeps_its_supervisor_and_another_has_another(
    narrow: ProcessSandbox, folders: Callable[[], Path]
) -> None:
    one, other = folders(), folders()
    parents = [await output(narrow, PARENT, workspace) for workspace in (one, one, other, one)]
    assert parents[0] == parents[1]
    assert len(set(parents)) == 3


async def test_memory_holds_nothing_of_the_code_of_another_workspace(
    narrow: ProcessSandbox, folders: Callable[[], Path]
) -> None:
    tell = """
for number in range(100):
    print("secret", f"f{number:03}", sep="-")
    open("-".join(("secret", f"f{number:03}")), "w").close()
"""
    search = r"""
import re
mine = "-".join(("secret", "mine"))
found = set()
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        begin, end = (int(edge, 16) for edge in line.split()[0].split("-"))
        if line.split()[1].startswith("r") and "[v" not in line:
            memory.seek(begin)
            found |= set(re.findall(rb"secret-(f\d\d\d|mine)", memory.read(end - begin)))
print(found)
"""
    await output(narrow, tell, folders())
    assert await output(narrow, search, folders()) == "{b'mine'}\n"


async def test_executions_and_forks_of_code_have_random_numbers_of_their_own(run: Run) -> None:
    code = """
import os, random, tempfile
if os.fork() > 0:
    os.wait()
print(random.random(), next(tempfile._get_candidate_names()), flush=True)
"""
    printed = "".join([(await run(code)).output for _ in range(3)]).split()
    assert len(set(printed)) == 12


async def test_forks_of_code_find_no_threads_and_no_locks_of_others(run: Run) -> None:
    code = """
import logging, os, threading
held, end = threading.Event(), threading.Event()
def hold():
    with logging._lock:
        held.set()
        end.wait()
threading.Thread(target=hold).start()
held.wait()
if os.fork() == 0:
    logging.getLogger("name").warning("not stuck")
    print(threading.enumerate() == [threading.main_thread()])
else:
    os.wait()
    end.set()
"""
    assert (await run(code.replace("with logging._lock", "with threading._active_limbo_lock"))).output == (
        "not stuck\nTrue\n"
    )


async def test_an_execution_that_was_stopped_spoils_nothing_for_the_next(run: Run) -> None:
    short = dataclasses.replace(TEST_LIMITS, timeout=0.3)
    before = (await run(PARENT)).output
    code = "import os, sys\nos.fork()\nsys.modules['json'] = None\nprint('x' * 9000)\nwhile True: pass"
    assert (await run(code, limits=short)).ending is Ending.TIMEOUT
    assert (await run(PARENT)).output == before
    assert (await run("import json\nprint(json.dumps(1))")).output == "1\n"


async def test_the_limits_of_one_execution_are_not_those_of_the_next(run: Run) -> None:
    code = "import resource\nprint([resource.getrlimit(kind) for kind in range(16)])"
    narrow = dataclasses.replace(TEST_LIMITS, memory_mb=100, file_mb=1, processes=3, open_files=20)
    first = await run(code)
    second = await run(code, limits=narrow)
    assert second.ok
    assert first.output != second.output
    assert (await run(code)).output == first.output


async def test_flags_of_the_standard_input_are_not_those_of_the_next(run: Run) -> None:
    code = """
import fcntl, os
flags = fcntl.fcntl(0, fcntl.F_GETFL)
print(flags & os.O_NONBLOCK)
fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_NONBLOCK)
"""
    assert [(await run(code)).output for _ in range(2)] == ["0\n"] * 2


def test_a_supervisor_imports_nothing_from_its_workspace(workspace: Path) -> None:
    (workspace / "planted.py").write_text("print('imported')")
    code = """
import socket, sys
from runtime.sandbox.child.supervisor import Post, Supervisor
Supervisor(Post(0, sys.argv[1], socket.socket(), 0, "/nowhere", None))
import planted
"""
    done = subprocess.run([sys.executable, "-c", code, workspace], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert "ModuleNotFoundError: No module named 'planted'" in done.stderr


def test_what_others_write_without_end_does_not_hold_a_supervisor_up() -> None:
    with Path("/dev/zero").open("rb") as endless:
        kept = Output(1000)
        drain(endless.fileno(), kept)
    assert kept.total > 1 << 20


async def test_folders_for_temporary_files_are_empty_and_usable_each_time(run: Run) -> None:
    code = """
import os, tempfile
print(os.listdir(tempfile.gettempdir()))
open(os.path.join(tempfile.mkdtemp(), "file"), "w").close()
os.chmod(tempfile.gettempdir(), 0)
"""
    assert [(await run(code)).output for _ in range(3)] == ["[]\n"] * 3


async def test_a_supervisor_that_has_died_is_replaced(narrow: ProcessSandbox, workspace: Path) -> None:
    parent = int(await output(narrow, PARENT, workspace))
    os.kill(parent, signal.SIGKILL)
    with anyio.fail_after(10):
        await narrow._supervisors[0].gone.wait()
    assert int(await output(narrow, PARENT, workspace)) != parent


@pytest.mark.skipif(os.geteuid() == 0, reason="root's code cannot limit its supervisor")
async def test_code_that_leaves_its_supervisor_no_descriptors_holds_nobody_up(
    narrow: ProcessSandbox, workspace: Path
) -> None:
    await output(
        narrow, "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))", workspace
    )
    with anyio.fail_after(20), pytest.raises(InfrastructureError):
        await output(narrow, PARENT, workspace)
    assert await output(narrow, PARENT, workspace)


def test_a_supervisor_fails_that_got_no_descriptor_with_its_request() -> None:
    code = """
import os, socket
from runtime.sandbox.child.supervisor import Post, Supervisor
near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
leash, held = os.pipe()
for request in (b"stop", b"{}"):
    near.send(request)
near.close()
Supervisor(Post(0, "/nowhere", far, leash, "/nowhere", None)).serve()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "no descriptor was left" in done.stderr


async def test_a_supervisor_that_does_not_answer_is_replaced_and_disturbs_no_other(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ProcessSandbox() as sandbox:
        await sandbox.ready()
        parent, zygote = int(await output(sandbox, PARENT, workspace)), sandbox._zygote
        os.kill(parent, signal.SIGSTOP)
        with monkeypatch.context() as hurried:
            hurried.setattr("runtime.sandbox.session._BEGIN_S", 0.2)
            with pytest.raises(InfrastructureError, match="did not start the code"):
                await output(sandbox, PARENT, workspace)
        assert int(await output(sandbox, PARENT, workspace)) != parent
        assert sandbox._zygote is zygote


async def test_a_supervisor_without_work_is_let_go_after_a_while(
    narrow: ProcessSandbox, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.sandbox.supervisor._IDLE_S", 0.01)
    parent = int(await output(narrow, PARENT, workspace))
    with anyio.fail_after(10):
        await narrow._supervisors[0].gone.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(parent, 0)
    assert int(await output(narrow, PARENT, workspace)) != parent


@as_root
async def test_a_supervisor_gathers_no_descriptors(run: Run) -> None:
    async def descriptors() -> int:
        parent = int((await run(PARENT)).output)
        return len(os.listdir(f"/proc/{parent}/fd"))  # noqa: PTH208 - no file system that could block

    first = await descriptors()
    for code in ("pass", "raise ValueError", "import os\nos.fork()", "import os\nos.abort()"):
        await run(code)
    assert await descriptors() == first


@as_root
@pytest.mark.parametrize(
    "attack",
    [
        "os.kill(parent, signal.SIGUSR1)",
        "os.setpriority(os.PRIO_PROCESS, parent, 19)",
        "os.sched_setaffinity(parent, {0})",
        "os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0))",
        "resource.prlimit(parent, resource.RLIMIT_NOFILE, (3, 3))",
        "open(f'/proc/{parent}/mem', 'rb')",
        "open(f'/proc/{parent}/oom_score_adj', 'w')",
        "os.listdir(f'/proc/{parent}/fd')",
    ],
)
async def test_code_cannot_do_anything_to_its_supervisor(run: Run, attack: str) -> None:
    execution = await run(f"import os, resource, signal\nparent = os.getppid()\n{attack}")
    assert execution.error is not None
    assert "PermissionError" in execution.error


@as_root
async def test_code_cannot_become_root_again(run: Run) -> None:
    code = "import os\nprint(os.getresuid()[0] > 0, len({*os.getresuid(), *os.getresgid()}))\nos.seteuid(0)"
    execution = await run(code)
    assert execution.output == "True 1\n"
    assert execution.error is not None
    assert "PermissionError" in execution.error


@as_root
def test_root_never_kills_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _number: killed.append(pid))
    with pytest.raises(PermissionError):
        kin.kill_all_code()
    assert killed == []
