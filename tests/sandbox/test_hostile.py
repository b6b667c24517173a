"""Code that fights the sandbox ends in an Execution like any other, and nothing is left of it."""

from __future__ import annotations

import dataclasses
import os
import resource
from pathlib import Path

import pytest

from runtime.sandbox import Ending, JsonValue, ProcessSandbox
from tests.sandbox.conftest import TEST_LIMITS, Run

SHORT = dataclasses.replace(TEST_LIMITS, timeout=0.6)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give code a user of its own")
as_ordinary_user = pytest.mark.skipif(os.geteuid() == 0, reason="root's code has a user of its own")


async def test_sys_exit_is_told_with_its_status(run: Run) -> None:
    execution = await run("import sys\nprint('before')\nsys.exit(3)")
    assert (execution.ending, execution.output) == (Ending.EXITED, "before\n")
    assert execution.error == "The code ended itself: sys.exit(3)"


async def test_os_exit_keeps_what_was_printed(run: Run) -> None:
    execution = await run("import os\nprint('before')\nos._exit(0)")
    assert (execution.ending, execution.output) == (Ending.EXITED, "before\n")
    assert execution.error is not None


async def test_a_signal_of_its_own_doing_is_named(run: Run) -> None:
    execution = await run("import os\nos.kill(os.getpid(), 9)")
    assert execution.ending is Ending.EXITED
    assert execution.error == "The process of the code was ended by SIGKILL."


async def test_a_crash_of_the_interpreter_is_named(run: Run) -> None:
    execution = await run("import ctypes\nctypes.string_at(0)")
    assert execution.ending is Ending.EXITED
    assert execution.error == "The process of the code was ended by SIGSEGV."


async def test_an_endless_loop_is_stopped_at_its_time_limit(run: Run) -> None:
    execution = await run("print('begun')\nwhile True: pass", limits=SHORT)
    assert (execution.ending, execution.output) == (Ending.TIMEOUT, "begun\n")
    assert execution.seconds >= 0.6
    assert execution.error == "The code was stopped: it ran for more than 0.6 s."


async def test_catching_every_exception_does_not_outlast_the_time_limit(run: Run) -> None:
    code = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    try:
        time.sleep(1000)
    except BaseException:
        pass
"""
    assert (await run(code, limits=SHORT)).ending is Ending.TIMEOUT


async def test_an_exception_swallowed_around_a_sleep_does_not_outlast_the_time_limit(run: Run) -> None:
    code = "import time\ntry:\n    time.sleep(1000)\nexcept Exception:\n    pass\nprint('on')"
    execution = await run(code, limits=SHORT)
    assert (execution.ending, execution.output) == (Ending.TIMEOUT, "")


async def test_stopping_itself_does_not_outlast_the_time_limit(run: Run) -> None:
    execution = await run("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", limits=SHORT)
    assert execution.ending is Ending.TIMEOUT


async def test_a_thread_that_never_ends_counts_as_code_that_never_ends(run: Run) -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()"
    assert (await run(code, limits=SHORT)).ending is Ending.TIMEOUT


async def test_a_fork_bomb_is_stopped_at_its_time_limit(run: Run) -> None:
    code = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    assert (await run(code, limits=SHORT)).ending is Ending.TIMEOUT


async def test_processes_that_fork_and_end_without_pause_are_caught(run: Run) -> None:
    code = """
import os
print("begun", flush=True)
if os.fork() == 0:
    while True:
        try:
            if os.fork() > 0:
                os._exit(0)
            os.setsid()
        except OSError:
            pass
"""
    execution = await run(code)
    assert execution.output == "begun\n"


async def test_huge_output_is_cut_in_the_middle_and_costs_the_daemon_no_memory(run: Run) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    execution = await run(
        "import os\nprint('begin')\nfor _ in range(3000): os.write(1, b'x' * 100_000)\nprint('end')"
    )
    assert execution.ok
    assert execution.output.startswith("begin\nxxx")
    assert execution.output.endswith("xxx\nend\n") or execution.output.endswith("xxxend\n")
    assert f"[{300_000_010 - 4096} bytes left out]" in execution.output
    assert len(execution.output) < 4200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


async def test_endless_output_is_stopped_at_the_time_limit(run: Run) -> None:
    execution = await run("while True: print('y' * 10_000)", limits=SHORT)
    assert execution.ending is Ending.TIMEOUT
    assert "bytes left out" in execution.output


async def test_closing_standard_output_only_silences_the_code(run: Run) -> None:
    execution = await run("import os, sys\nprint('before')\nsys.stdout.close()\nopen('made', 'w').close()")
    assert (execution.ending, execution.output) == (Ending.COMPLETED, "before\n")


async def test_closing_the_descriptor_of_standard_output_is_an_error_of_the_code(run: Run) -> None:
    execution = await run("import os\nos.close(1)\nprint('x')")
    assert execution.ending is Ending.EXCEPTION
    assert execution.error is not None
    assert "OSError" in execution.error


async def test_closing_every_descriptor_ends_as_a_process_that_left(run: Run) -> None:
    execution = await run("import os\nprint('before')\nos.closerange(0, 1000)\nsum(range(1000))")
    assert (execution.ending, execution.output) == (Ending.EXITED, "before\n")


async def test_closing_every_descriptor_and_going_on_is_stopped_at_the_time_limit(run: Run) -> None:
    execution = await run("import os\nos.closerange(0, 1000)\nwhile True: pass", limits=SHORT)
    assert execution.ending is Ending.TIMEOUT


async def test_a_file_under_the_number_of_the_channel_is_not_written_to(run: Run, workspace: Path) -> None:
    code = "import os\nos.closerange(3, 1000)\nkept = [open(f'f{i}', 'wb') for i in range(20)]"
    assert (await run(code)).ending is Ending.EXITED
    assert [(workspace / f"f{i}").stat().st_size for i in range(20)] == [0] * 20


WRITE_TO_CHANNEL = """
import os, socket, stat, struct, time
for number in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            channel = socket.socket(fileno=os.dup(number))
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    "garbage",
    [
        "b'no frame at all' * 1000",
        "struct.pack('>I', 17 << 20) + b'x' * 1000",
        "struct.pack('>I', 2) + b'[]'",
        "struct.pack('>I', 2) + b'{}'",
        "struct.pack('>I', 4) + b'{{{{'",
        "struct.pack('>I', 200_000) + b'[' * 200_000",
        """struct.pack('>I', 13) + b'{"end":"stop"}'[:13]""",
        """struct.pack('>I', 23) + b'{"end":"killed","x":"y"}'""",
        """struct.pack('>I', 30) + b'{"call":"1","tool":3,"args":{}}'[:30]""",
    ],
)
async def test_garbage_on_the_channel_ends_the_execution(run: Run, garbage: str) -> None:
    execution = await run(f"{WRITE_TO_CHANNEL}\nchannel.sendall({garbage})\ntime.sleep(1000)")
    assert execution.ending is Ending.KILLED
    assert execution.error is not None
    assert "channel" in execution.error


async def test_a_forged_end_ends_the_execution(run: Run) -> None:
    code = f"""{WRITE_TO_CHANNEL}
import json
end = json.dumps({{"end": "completed", "error": None}}).encode()
channel.sendall(struct.pack(">I", len(end)) + end)
os._exit(0)
"""
    assert (await run(code)).ending is Ending.COMPLETED


async def test_a_forged_call_of_an_unknown_tool_is_refused(run: Run) -> None:
    code = f"""{WRITE_TO_CHANNEL}
import json
call = json.dumps({{"call": 1, "tool": "__class__", "args": [], "kwargs": {{}}}}).encode()
channel.sendall(struct.pack(">I", len(call)) + call)
size, = struct.unpack(">I", channel.recv(4))
print(channel.recv(size).decode())
"""
    assert "there is no tool" in (await run(code)).output


async def test_calls_whose_answers_are_never_read_cost_the_daemon_no_memory(run: Run) -> None:
    calls = 0

    async def give() -> JsonValue:
        nonlocal calls
        calls += 1
        return "x" * 1_000_000

    code = f"""{WRITE_TO_CHANNEL}
import json
call = json.dumps({{"call": 1, "tool": "give", "args": [], "kwargs": {{}}}}).encode()
while True:
    channel.sendall(struct.pack(">I", len(call)) + call)
"""
    assert (await run(code, tools={"give": give}, limits=SHORT)).ending is Ending.TIMEOUT
    assert calls < 3


@as_root
async def test_the_code_may_not_signal_its_parent(run: Run) -> None:
    for number in ("SIGKILL", "SIGSTOP", "SIGTERM"):
        execution = await run(f"import os, signal\nos.kill(os.getppid(), signal.{number})")
        assert execution.error is not None
        assert "PermissionError" in execution.error


@as_root
async def test_the_code_cannot_signal_anybody_but_itself(run: Run, sandbox: ProcessSandbox) -> None:
    assert sandbox._zygote is not None
    code = """
import os
for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
    if pid != os.getpid():
        try:
            os.kill(pid, 9)
        except PermissionError:
            continue
        print("signalled", pid)
"""
    assert (await run(code)).output == ""
    assert not sandbox._zygote.dead


@as_ordinary_user
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
async def test_killing_its_parent_ends_the_execution(run: Run, number: str) -> None:
    code = f"""
import os, signal, subprocess, time
subprocess.Popen(["sleep", "1000"], start_new_session=True)
os.kill(os.getppid(), signal.{number})
time.sleep(1000)
"""
    assert (await run(code)).ending is Ending.KILLED


@as_ordinary_user
async def test_stopping_its_parent_ends_in_time_all_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.sandbox.session._STOP_S", 1.0)
    code = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(1000)"
    assert (await run(code, limits=SHORT)).ending is Ending.TIMEOUT


async def test_daemons_of_the_code_do_not_outlive_it(run: Run) -> None:
    code = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.closerange(0, 1000)
            time.sleep(1000)
        os._exit(0)
print("done")
"""
    execution = await run(code)
    assert (execution.ending, execution.output) == (Ending.COMPLETED, "done\n")


async def test_programs_with_another_environment_do_not_outlive_the_code(run: Run) -> None:
    code = """
import subprocess
sleeper = subprocess.Popen(["sleep", "1000"], env={}, start_new_session=True, stdout=subprocess.DEVNULL)
print(sleeper.pid)
"""
    execution = await run(code)
    assert execution.ok
    with pytest.raises(ProcessLookupError):
        os.kill(int(execution.output), 0)


async def test_a_memory_hog_is_told_so(run: Run) -> None:
    execution = await run("hog = []\nwhile True: hog.append(bytearray(10_000_000))")
    assert execution.ending is Ending.MEMORY
    assert execution.error is not None
    assert execution.error.endswith("MemoryError")


async def test_memory_that_small_objects_use_up_is_told_too(run: Run) -> None:
    execution = await run("hog = {}\ni = 0\nwhile True:\n    i += 1\n    hog[i] = str(i) * 40")
    assert execution.ending is Ending.MEMORY


async def test_a_huge_file_is_an_error_of_the_code(run: Run, workspace: Path) -> None:
    execution = await run("with open('big', 'wb') as f:\n    while True: f.write(b'x' * 1_000_000)")
    assert execution.ending is Ending.EXCEPTION
    assert execution.error is not None
    assert "File too large" in execution.error
    assert (workspace / "big").stat().st_size <= 8 << 20


async def test_too_many_open_files_are_an_error_of_the_code(run: Run) -> None:
    execution = await run("kept = [open('/dev/null') for _ in range(100)]")
    assert execution.error is not None
    assert "Too many open files" in execution.error


@as_root
async def test_too_many_processes_are_an_error_of_the_code(run: Run) -> None:
    code = "import subprocess\nkept = [subprocess.Popen(['sleep', '9']) for _ in range(100)]"
    execution = await run(code)
    assert execution.error is not None
    assert "BlockingIOError" in execution.error


async def test_deep_recursion_is_an_error_of_the_code(run: Run) -> None:
    execution = await run("def f(): return f()\nf()")
    assert execution.ending is Ending.EXCEPTION
    assert execution.error is not None
    assert "RecursionError" in execution.error
    assert len(execution.error) < 2000


async def test_recursion_without_its_limit_crashes_only_the_code(run: Run) -> None:
    code = "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())"
    assert (await run(code)).ending in {Ending.EXITED, Ending.EXCEPTION, Ending.MEMORY}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("print(1", "SyntaxError"),
        ("x = 1\n  y = 2", "IndentationError"),
        ("print('a\0b')", "null bytes"),
        ("print('\ud800')", "UnicodeEncodeError"),
        ("\ufeff§", "SyntaxError"),
        ("-" * 100_000 + "1", "Error"),
        ("return 1", "SyntaxError"),
    ],
)
async def test_code_that_is_no_python_is_told_so(run: Run, code: str, name: str) -> None:
    execution = await run(code)
    assert execution.ending in {Ending.EXCEPTION, Ending.MEMORY}
    assert execution.error is not None
    assert name in execution.error


async def test_nesting_that_breaks_the_compiler_breaks_only_the_code(run: Run) -> None:
    assert not (await run("(" * 90 + ")" * 90 + "\n" + "[" * 100_000)).ok


async def test_code_of_more_than_a_frame_is_refused(run: Run) -> None:
    assert (await run("#" * (17 << 20))).ending is Ending.EXCEPTION


async def test_an_exception_that_cannot_be_shown_is_still_told(run: Run) -> None:
    code = "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E"
    execution = await run(code)
    assert not execution.ok
    assert execution.error


async def test_a_huge_exception_is_cut(run: Run) -> None:
    execution = await run("raise ValueError('x' * 10_000_000)")
    assert execution.error is not None
    assert len(execution.error) < 17_000


async def test_the_workspace_stays_usable_whatever_the_code_forbids_itself(run: Run, workspace: Path) -> None:
    code = """
import os
os.makedirs("a/b/c")
open("a/b/c/file", "w").write("kept")
for name in ("a/b/c/file", "a/b/c", "a/b", "a", "."):
    os.chmod(name, 0)
"""
    assert (await run(code)).ok
    assert (workspace / "a/b/c/file").read_text() == "kept"
    assert (await run("print(open('a/b/c/file').read())")).output == "kept\n"


async def test_folders_nested_without_end_do_no_harm(run: Run) -> None:
    code = """
import os
for place in (os.environ["HOME"], os.environ["TMPDIR"]):
    os.chdir(place)
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    open("file", "w").close()
"""
    assert (await run(code)).ok
    assert (await run("print('again')")).output == "again\n"


async def test_links_out_of_the_workspace_are_not_followed(run: Run, workspace: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("ours")
    precious.chmod(0o600)
    (workspace / "link").symlink_to(precious)
    (workspace / "folder").symlink_to(tmp_path)
    before = precious.stat()
    assert (await run("pass")).ok
    assert precious.stat() == before


@as_root
async def test_a_second_name_of_a_file_of_ours_does_not_change_hands(run: Run, workspace: Path) -> None:
    precious = workspace.parent / "precious"
    precious.write_text("ours")
    precious.chmod(0o600)
    (workspace / "second").hardlink_to(precious)
    execution = await run("open('second').read()")
    assert execution.error is not None
    assert "PermissionError" in execution.error
    assert precious.stat().st_uid == 0


@as_root
async def test_the_code_cannot_read_the_environment_of_the_daemon_or_the_zygote(
    run: Run, sandbox: ProcessSandbox
) -> None:
    assert sandbox._zygote is not None
    for pid in (os.getpid(), sandbox._zygote._process.pid):
        execution = await run(f"open('/proc/{pid}/environ').read()")
        assert execution.error is not None
        assert "PermissionError" in execution.error


@as_root
async def test_the_code_cannot_write_to_the_workspace_of_other_code(
    run: Run, sandbox: ProcessSandbox, workspace: Path
) -> None:
    other = workspace.parent / "other"
    other.mkdir()
    await sandbox.run("open('file', 'w').write('x')", workspace=other, tools={}, limits=TEST_LIMITS)
    execution = await run(f"open('{other}/file', 'a').write('y')")
    assert execution.error is not None
    assert "PermissionError" in execution.error


@as_root
async def test_programs_that_change_the_user_are_of_no_use(run: Run) -> None:
    code = "import subprocess\nprint(subprocess.run(['su', '-c', 'id'], capture_output=True, text=True).stdout)"
    assert "root" not in (await run(code)).output
    status = await run("print(open('/proc/self/status').read())")
    assert "NoNewPrivs:\t1" in status.output
    assert "CapEff:\t0000000000000000" in status.output
    assert "CapPrm:\t0000000000000000" in status.output


async def test_no_variable_of_the_daemon_reaches_the_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = """
import os, subprocess
print(sorted(os.environ))
print(open("/proc/self/environ").read())
print(subprocess.run(["env"], capture_output=True, text=True).stdout)
"""
    execution = await run(code)
    assert "sk-secret" not in execution.output
    assert "['CSO_SANDBOX', 'HOME', 'LANG', 'MALLOC_ARENA_MAX', 'PATH', 'PWD', 'TMPDIR']" in execution.output
