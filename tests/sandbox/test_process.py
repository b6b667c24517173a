"""What ordinary code sees: its folder, its output, its tools; and what the caller of run() gets."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from runtime.errors import ConfigError, InfrastructureError, ToolError
from runtime.sandbox import Ending, Execution, JsonValue, ProcessSandbox, session
from tests.sandbox.conftest import TEST_LIMITS, Run, left_of

SHORT = dataclasses.replace(TEST_LIMITS, timeout=0.6)


async def echo(*args: JsonValue, **kwargs: JsonValue) -> JsonValue:
    return [list(args), dict(kwargs)]


async def ask_llm(query: JsonValue) -> JsonValue:
    return f"answer to {query}"


async def test_output_of_both_streams_comes_in_order(run: Run) -> None:
    code = """
import os, subprocess, sys
print("one")
print("two", file=sys.stderr)
print("three", end="\\n")
subprocess.run(["echo", "four"])
sys.stderr.write("five\\n")
print("six", end="")
"""
    execution = await run(code)
    assert execution.output == "one\ntwo\nthree\nfour\nfive\nsix"
    assert (execution.ok, execution.error, execution.ending) == (True, None, Ending.COMPLETED)
    assert 0 < execution.seconds < 20


async def test_an_exception_shows_the_lines_of_the_code_and_none_of_ours(run: Run) -> None:
    execution = await run("def f(x):\n    return 1 / x\n\nprint('before')\nf(0)")
    assert (execution.ending, execution.output) == (Ending.EXCEPTION, "before\n")
    assert execution.error is not None
    assert execution.error.splitlines()[0] == "Traceback (most recent call last):"
    assert '  File "<action>", line 5, in <module>\n    f(0)' in execution.error
    assert execution.error.endswith("ZeroDivisionError: division by zero")
    assert "sandbox" not in execution.error


async def test_causes_of_exceptions_are_shown_without_our_lines(run: Run) -> None:
    async def refuse() -> JsonValue:
        raise ToolError("not today")

    code = "try:\n    refuse()\nexcept Exception as error:\n    raise ValueError('no') from error"
    execution = await run(code, tools={"refuse": refuse})
    assert execution.error is not None
    assert "ToolError: not today\n\nThe above exception was the direct cause" in execution.error
    assert "channel" not in execution.error


async def test_each_execution_has_fresh_globals(run: Run) -> None:
    assert (await run("x = 1\nimport json\njson.spoiled = True")).ok
    assert (await run("import json\nprint('x' in globals(), hasattr(json, 'spoiled'))")).output == "False False\n"


async def test_the_code_works_in_its_workspace_and_files_stay(run: Run, workspace: Path) -> None:
    code = "import os\nopen('made.txt', 'w').write('text')\nprint(os.getcwd(), os.environ['HOME'])"
    execution = await run(code)
    assert execution.output == f"{workspace} {workspace}\n"
    assert (workspace / "made.txt").read_text() == "text"
    absolute = await run("import os\nprint(open(os.path.abspath('made.txt')).read())")
    assert absolute.output == "text\n"


async def test_files_of_the_daemon_can_be_read_and_changed(run: Run, workspace: Path) -> None:
    (workspace / "folder").mkdir()
    (workspace / "folder/given.csv").write_text("a,b\n")
    execution = await run("with open('folder/given.csv', 'a') as f: f.write('1,2\\n')")
    assert execution.ok
    assert (workspace / "folder/given.csv").read_text() == "a,b\n1,2\n"


async def test_unchanged_files_do_not_change_their_signature_between_executions(run: Run, workspace: Path) -> None:
    await run("open('made.txt', 'w').write('text')")
    before = (workspace / "made.txt").stat()
    await run("pass")
    assert (workspace / "made.txt").stat().st_ctime_ns == before.st_ctime_ns


async def test_temporary_files_are_out_of_the_workspace_and_removed(run: Run, workspace: Path) -> None:
    code = "import tempfile\nprint(tempfile.mkdtemp())\nprint(tempfile.NamedTemporaryFile(delete=False).name)"
    execution = await run(code)
    made = [Path(line) for line in execution.output.splitlines()]
    assert len(made) == 2
    assert not any(path.exists() or workspace in path.parents for path in made)
    assert list(made[0].parent.iterdir()) == []


async def test_input_is_at_its_end(run: Run) -> None:
    execution = await run("input('name? ')")
    assert execution.error is not None
    assert "EOFError" in execution.error


async def test_modules_of_the_workspace_can_be_imported_whatever_their_names(run: Run, workspace: Path) -> None:
    for name in ("child", "runner", "helper", "tools"):
        (workspace / f"{name}.py").write_text(f"name = 'my {name}'")
    execution = await run(
        "import child, runner, helper, tools\nprint(child.name, runner.name, helper.name, tools.name)"
    )
    assert execution.output == "my child my runner my helper my tools\n"


async def test_dataclasses_pickles_and_process_pools_work(run: Run) -> None:
    code = """
import multiprocessing, pickle
from dataclasses import dataclass
@dataclass
class P:
    x: int
def double(p):
    return P(2 * p.x)
if __name__ == "__main__":
    print(pickle.loads(pickle.dumps(P(1))))
    with multiprocessing.Pool(2) as pool:
        print(pool.map(double, [P(1), P(2)]))
"""
    execution = await run(code)
    assert (execution.output, execution.error) == ("P(x=1)\n[P(x=2), P(x=4)]\n", None)


async def test_threads_that_are_still_at_work_are_waited_for(run: Run) -> None:
    code = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()"
    assert (await run(code)).output == "late\n"


async def test_a_thread_inside_a_tool_at_the_end_does_not_hold_the_end_up(run: Run) -> None:
    async def never() -> JsonValue:
        await anyio.sleep_forever()
        return None

    code = (
        "import threading, time\nthreading.Thread(target=never, daemon=True).start()\ntime.sleep(0.2)\nprint('end')"
    )
    execution = await run(code, tools={"never": never})
    assert (execution.ending, execution.output) == (Ending.COMPLETED, "end\n")


async def test_what_is_no_text_is_shown_with_escapes(run: Run) -> None:
    execution = await run("import os\nprint('\\ud800')\nos.write(1, b'\\xff\\n')")
    assert execution.output == "\\ud800\n\ufffd\n"


async def test_tools_get_their_arguments_and_give_their_results(run: Run) -> None:
    code = """print(echo(1, "zwei", [3.5, None], key={"a": True}))"""
    execution = await run(code, tools={"echo": echo})
    assert execution.output == "[[1, 'zwei', [3.5, None]], {'key': {'a': True}}]\n"


@pytest.mark.parametrize(
    "code",
    [
        "from tools import ask_llm\nprint(ask_llm('q'))",
        "import tools\nprint(tools.ask_llm('q'))",
        "import ask_llm\nprint(ask_llm('q'))",
        "from ask_llm import ask_llm\nprint(ask_llm('q'))",
        "import tools as t\nfrom tools import *\nprint(ask_llm(query='q'))",
    ],
)
async def test_tools_can_be_imported(run: Run, code: str) -> None:
    execution = await run(code, tools={"ask_llm": ask_llm})
    assert (execution.output, execution.error) == ("answer to q\n", None)


async def test_a_tool_error_is_an_exception_with_its_message(run: Run) -> None:
    async def refuse() -> JsonValue:
        raise ToolError("quota is used up")

    code = "try:\n    refuse()\nexcept ToolError as error:\n    print('caught', error)\nrefuse()"
    execution = await run(code, tools={"refuse": refuse})
    assert execution.output == "caught quota is used up\n"
    assert execution.error is not None
    assert execution.error.endswith("ToolError: quota is used up")


async def test_wrong_arguments_are_a_type_error(run: Run) -> None:
    execution = await run("ask_llm('q', temperature=0)", tools={"ask_llm": ask_llm})
    assert execution.error is not None
    assert execution.error.endswith("TypeError: ask_llm(): got an unexpected keyword argument 'temperature'")


@pytest.mark.parametrize(
    "argument", ["{1, 2}", "object()", "float('nan')", "b'bytes'", "'\\ud800'", "(l := []).append(l) or l", "echo"]
)
async def test_arguments_that_json_cannot_hold_are_a_type_error(run: Run, argument: str) -> None:
    execution = await run(f"echo({argument})", tools={"echo": echo})
    assert execution.error is not None
    assert "TypeError: echo() takes what JSON can hold" in execution.error


@pytest.mark.parametrize("output", ["None", "type('Tee', (), {'write': lambda self, text: None})()"])
async def test_what_code_puts_in_the_place_of_stdout_makes_no_failure_of_it(run: Run, output: str) -> None:
    execution = await run(f"import sys\nprint('seen')\nsys.stdout = {output}")
    assert (execution.output, execution.error) == ("seen\n", None)


async def test_an_exception_about_a_name_that_is_not_utf_8_is_told(run: Run) -> None:
    execution = await run("raise ValueError('name \\udcff')")
    assert execution.error is not None
    assert execution.error.endswith("ValueError: name \\udcff")


async def test_arguments_that_are_too_large_are_a_type_error(run: Run) -> None:
    execution = await run("echo('x' * (1 << 20))", tools={"echo": echo})
    assert execution.error is not None
    assert "more than 1 MiB" in execution.error


@pytest.mark.parametrize("result", [{1, 2}, object(), "x" * (17 << 20), "\ud800", Path("x")])
async def test_results_that_cannot_be_handed_over_are_an_error_of_the_call(run: Run, result: JsonValue) -> None:
    async def give() -> JsonValue:
        return result

    execution = await run("try:\n    give()\nexcept ToolError as e:\n    print(e)", tools={"give": give})
    assert execution.output.startswith("the result of give() cannot be handed over")


async def test_large_arguments_and_results_pass(run: Run) -> None:
    async def much(text: JsonValue) -> JsonValue:
        return [text] * 12

    code = "x = 'ä' * 500_000\nprint(much(x) == [x] * 12)"
    assert (await run(code, tools={"much": much})).output == "True\n"


@pytest.mark.parametrize("called", ["echo(1)", "nothing_of_the_kind"])
async def test_a_loop_of_calls_is_stopped_by_the_codes_own_time(run: Run, called: str) -> None:
    code = f"while True:\n    try:\n        {called}\n    except BaseException:\n        pass"
    with anyio.fail_after(60):
        execution = await run(code, tools={"echo": echo}, limits=SHORT)
    assert execution.ending is Ending.TIMEOUT


async def test_code_that_calls_tools_without_end_is_stopped_for_that(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_MOST_CALLS", 20)
    execution = await run("while True:\n    echo(1)", tools={"echo": echo})
    assert execution.ending is Ending.KILLED
    assert execution.error == "The code was stopped: it called tools more than 20 times."


async def test_threads_may_call_tools_at_once(run: Run) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(16) as pool:
    answers = list(pool.map(lambda i: echo(i)[0][0], range(200)))
print(answers == list(range(200)))
"""
    assert (await run(code, tools={"echo": echo})).output == "True\n"


async def test_forks_of_the_code_are_told_that_tools_are_not_theirs(run: Run) -> None:
    code = """
import os
if os.fork() == 0:
    try:
        echo(1)
    except ToolError as error:
        print(error)
else:
    os.wait()
    print(echo(2))
"""
    execution = await run(code, tools={"echo": echo})
    assert execution.output == "echo() can be called from threads, but not from other processes\n[[2], {}]\n"


async def test_an_alarm_inside_a_tool_does_not_mix_up_answers(run: Run) -> None:
    async def slow(number: JsonValue) -> JsonValue:
        await anyio.sleep(0.05)
        return number

    code = """
import signal
def ring(*_):
    raise TimeoutError
signal.signal(signal.SIGALRM, ring)
for i in range(5):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        slow(i)
    except TimeoutError:
        print("rang")
print(slow(7))
"""
    assert (await run(code, tools={"slow": slow})).output == "rang\n" * 5 + "7\n"


async def test_time_spent_in_tools_does_not_count(run: Run) -> None:
    async def slow() -> JsonValue:
        await anyio.sleep(1.0)
        return None

    execution = await run("slow()\nprint('done')", tools={"slow": slow}, limits=SHORT)
    assert (execution.ending, execution.output) == (Ending.COMPLETED, "done\n")
    assert execution.seconds < 0.6


async def test_time_between_tools_adds_up(run: Run) -> None:
    code = "import time\nwhile True:\n    echo()\n    time.sleep(0.1)"
    execution = await run(code, tools={"echo": echo}, limits=SHORT)
    assert execution.ending is Ending.TIMEOUT
    assert execution.seconds >= 0.6


async def test_any_other_error_of_a_tool_ends_the_execution_and_reaches_the_caller(run: Run) -> None:
    async def broken() -> JsonValue:
        raise InfrastructureError("the endpoint is gone")

    with pytest.raises(InfrastructureError, match="the endpoint is gone"):
        await run("try:\n    broken()\nexcept BaseException:\n    while True: pass", tools={"broken": broken})


async def test_cancelling_a_run_ends_its_processes_before_it_returns(
    sandbox: ProcessSandbox, workspace: Path
) -> None:
    begun = anyio.Event()
    # Until the child says something, its environment, by which it is found, may not be in its place yet.
    code = """
import subprocess
child = subprocess.Popen(["sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE)
child.stdout.readline()
begin()
while True: pass
"""

    async def begin() -> JsonValue:
        begun.set()
        return None

    async def run() -> None:
        await sandbox.run(code, workspace=workspace, tools={"begin": begin}, limits=TEST_LIMITS)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await begun.wait()
        assert len(left_of(sandbox)) > 1
        tasks.cancel_scope.cancel()
    assert left_of(sandbox) == set()


async def test_cancelling_while_a_tool_works_cancels_the_tool(sandbox: ProcessSandbox, workspace: Path) -> None:
    begun, cancelled = anyio.Event(), anyio.Event()

    async def wait() -> JsonValue:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return None

    async def run() -> None:
        await sandbox.run("wait()", workspace=workspace, tools={"wait": wait}, limits=TEST_LIMITS)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert cancelled.is_set()
    assert left_of(sandbox) == set()


async def test_a_process_that_ends_while_its_thread_is_in_a_tool_cancels_the_tool(run: Run, workspace: Path) -> None:
    cancelled = anyio.Event()

    async def wait() -> JsonValue:
        await anyio.Path(workspace, "begun").touch()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return None

    code = """
import os, threading, time
threading.Thread(target=wait).start()
while not os.path.exists("begun"):
    time.sleep(0.01)
os._exit(4)
"""
    assert (await run(code, tools={"wait": wait})).ending is Ending.EXITED
    assert cancelled.is_set()


async def test_a_hundred_executions_have_tool_calls_in_flight_at_once(
    sandbox: ProcessSandbox, folders: Callable[[], Path]
) -> None:
    everybody = anyio.Event()
    arrived: set[JsonValue] = set()
    results: dict[int, Execution] = {}

    async def meet(number: JsonValue) -> JsonValue:
        arrived.add(number)
        if len(arrived) == 100:
            everybody.set()
        await everybody.wait()
        return number

    async def run(number: int) -> None:
        code = f"print(meet({number}), meet(0))\nopen('made', 'w').write('{number}')"
        workspace = folders()
        results[number] = await sandbox.run(code, workspace=workspace, tools={"meet": meet}, limits=TEST_LIMITS)
        assert (workspace / "made").read_text() == str(number)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(run, number)
    assert {number: result.output for number, result in results.items()} == {n: f"{n} 0\n" for n in range(100)}
    assert left_of(sandbox) == set()


async def test_more_executions_than_slots_wait_their_turn(folders: Callable[[], Path]) -> None:
    at_once, most = 0, 0

    async def count() -> JsonValue:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.sleep(0.01)
        at_once -= 1
        return None

    async with ProcessSandbox(slots=2) as sandbox, anyio.create_task_group() as tasks:

        async def run() -> None:
            execution = await sandbox.run("count()", workspace=folders(), tools={"count": count}, limits=TEST_LIMITS)
            assert execution.ok

        for _ in range(8):
            tasks.start_soon(run)
    assert 1 <= most <= 2


async def test_a_workspace_that_does_not_exist_is_no_evidence(sandbox: ProcessSandbox, workspace: Path) -> None:
    with pytest.raises(InfrastructureError, match="no workspace"):
        await sandbox.run("pass", workspace=workspace / "gone", tools={}, limits=TEST_LIMITS)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's code reaches what the user reaches")
async def test_a_workspace_below_a_closed_folder_is_a_mistake_of_the_configuration(
    sandbox: ProcessSandbox, workspace: Path
) -> None:
    for folder, mode in ((workspace, 0o755), (workspace / "closed", 0o700), (workspace / "closed/open", 0o755)):
        await anyio.Path(folder).mkdir(exist_ok=True)
        await anyio.Path(folder).chmod(mode)
    with pytest.raises(ConfigError, match="closed is closed to other users"):
        await sandbox.run("pass", workspace=workspace / "closed/open", tools={}, limits=TEST_LIMITS)


async def test_a_workspace_that_goes_while_it_waits_for_a_place_is_told(folders: Callable[[], Path]) -> None:
    began, end = anyio.Event(), anyio.Event()
    first, second = folders(), folders()

    async def hold() -> None:
        began.set()
        await end.wait()

    async with ProcessSandbox(slots=1) as sandbox, anyio.create_task_group() as tasks:
        await sandbox.ready()

        async def occupy() -> None:
            await sandbox.run("hold()", workspace=first, tools={"hold": hold}, limits=TEST_LIMITS)

        async def wait() -> None:
            with pytest.raises(InfrastructureError):
                await sandbox.run("pass", workspace=second, tools={}, limits=TEST_LIMITS)

        tasks.start_soon(occupy)
        await began.wait()
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        second.rmdir()
        end.set()
