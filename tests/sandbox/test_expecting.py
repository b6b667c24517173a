"""Runners are made while code is being asked for, and nothing depends on whether it comes."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from runtime.errors import InfrastructureError
from runtime.sandbox import Ending, Execution, Limits, ProcessSandbox
from runtime.sandbox.supervisor import Terms
from tests.sandbox.conftest import TEST_LIMITS, left_of

PID = "import os\nprint(os.getpid())"


@pytest.fixture
async def narrow() -> AsyncIterator[ProcessSandbox]:
    """A sandbox that is up, in which every workspace comes to the same slot."""
    async with ProcessSandbox(slots=1) as sandbox:
        await sandbox.ready()
        if os.geteuid() != 0:  # an ordinary user's processes have to be counted before any are made ahead
            await sandbox._census.others()
        yield sandbox


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not true():  # noqa: ASYNC110 - of processes
            await anyio.sleep(0.01)


async def runner_of(sandbox: ProcessSandbox, workspace: Path, limits: Limits = TEST_LIMITS) -> int:
    """Have a runner made for code of a workspace that is to come, until it is ready; its process."""
    sandbox.expect(workspace, tools={}, limits=limits)
    await until(lambda: _has_ready_runner(sandbox))
    (runner,) = left_of(sandbox)
    return runner


def _has_ready_runner(sandbox: ProcessSandbox) -> bool:
    supervisor = sandbox._supervisors.get(0)
    if supervisor is None or not supervisor.awaits_code() or supervisor._channel is None:
        return False
    readable, _, _ = select.select([supervisor._channel], [], [], 0)
    return bool(readable)


def make_anew(workspace: Path) -> None:
    """As for a rollout that is tried again."""
    workspace.rmdir()
    workspace.mkdir()
    (workspace / "restored").touch()


async def run(sandbox: ProcessSandbox, code: str, workspace: Path) -> Execution:
    return await sandbox.run(code, workspace=workspace, tools={}, limits=TEST_LIMITS)


async def test_code_that_was_expected_runs_in_the_process_that_was_made_for_it(
    narrow: ProcessSandbox, workspace: Path
) -> None:
    for _ in range(2):
        runner = await runner_of(narrow, workspace)
        assert (await run(narrow, PID, workspace)).output == f"{runner}\n"
        assert left_of(narrow) == set()
    assert (await run(narrow, PID, workspace)).output != f"{runner}\n"


async def test_the_time_that_a_runner_waits_is_not_its_codes(narrow: ProcessSandbox, workspace: Path) -> None:
    limits = dataclasses.replace(TEST_LIMITS, timeout=0.5)
    runner = await runner_of(narrow, workspace, limits)
    await anyio.sleep(1.0)
    execution = await narrow.run(PID, workspace=workspace, tools={}, limits=limits)
    assert (execution.ok, execution.output) == (True, f"{runner}\n")


async def test_code_that_comes_on_other_terms_gets_them(narrow: ProcessSandbox, workspace: Path) -> None:
    runner = await runner_of(narrow, workspace)

    async def tell() -> str:
        return "told"

    limits = dataclasses.replace(TEST_LIMITS, open_files=33)
    code = f"import resource\nprint(tell(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n{PID}"
    execution = await narrow.run(code, workspace=workspace, tools={"tell": tell}, limits=limits)
    assert execution.output.split()[:2] == ["told", "33"]
    assert execution.output.split()[2] != str(runner)
    assert left_of(narrow) == set()


async def test_a_workspace_that_was_made_anew_is_the_one_that_code_finds(
    narrow: ProcessSandbox, workspace: Path
) -> None:
    runner = await runner_of(narrow, workspace)
    make_anew(workspace)
    execution = await run(narrow, f"{PID}\nprint(os.listdir())\nopen('more', 'w').close()", workspace)
    assert execution.output.splitlines()[1:] == ["['restored']"]
    assert execution.output.split()[0] != str(runner)
    assert (await run(narrow, "import os\nprint(sorted(os.listdir()))", workspace)).output == "['more', 'restored']\n"


async def test_a_runner_that_died_waiting_is_replaced(narrow: ProcessSandbox, workspace: Path) -> None:
    os.kill(await runner_of(narrow, workspace), signal.SIGKILL)
    await until(lambda: not narrow._supervisors[0].awaits_code())
    assert (await run(narrow, "print(1)", workspace)).output == "1\n"


async def test_the_death_of_a_runner_that_took_no_code_says_nothing_of_the_code(
    narrow: ProcessSandbox, workspace: Path
) -> None:
    runner = await runner_of(narrow, workspace)
    os.kill(runner, signal.SIGSTOP)  # so that it takes nothing, and nobody knows
    async with anyio.create_task_group() as tasks:

        async def kill() -> None:
            await anyio.sleep(0.3)
            os.kill(runner, signal.SIGKILL)

        tasks.start_soon(kill)
        with pytest.raises(InfrastructureError, match="before they took the code"):
            await run(narrow, "print(1)", workspace)
    assert (await run(narrow, "print(1)", workspace)).output == "1\n"


async def test_time_that_passes_before_a_runner_takes_its_code_is_no_timeout_of_the_code(
    narrow: ProcessSandbox, workspace: Path
) -> None:
    limits = dataclasses.replace(TEST_LIMITS, timeout=0.5)
    os.kill(await runner_of(narrow, workspace, limits), signal.SIGSTOP)
    with pytest.raises(InfrastructureError, match="before they took the code"):
        await narrow.run("print(1)", workspace=workspace, tools={}, limits=limits)


async def test_a_workspace_is_not_handed_over_by_a_supervisor_that_it_has_left(folders: Callable[[], Path]) -> None:
    held, end = anyio.Event(), anyio.Event()

    async def hold() -> None:
        held.set()
        await end.wait()

    async with ProcessSandbox(slots=2) as sandbox, anyio.create_task_group() as tasks:
        one, other, third = folders(), folders(), folders()
        assert (await run(sandbox, "open('mine', 'w').close()", one)).ok
        supervisor = sandbox._supervisors[sandbox._homes[one]]

        async def occupy() -> None:
            await sandbox.run("hold()", workspace=third, tools={"hold": hold}, limits=TEST_LIMITS)

        tasks.start_soon(occupy)
        await held.wait()
        # It has a job in line, which it would take on before it left.
        supervisor.begin(Terms.of(one, (), TEST_LIMITS), others=10_000)
        tasks.start_soon(run, sandbox, "pass", other)
        await anyio.lowlevel.checkpoint()
        end.set()
        execution = await run(sandbox, "open('mine', 'a').write('x')\nopen('new', 'w').close()", one)
        assert (execution.error, supervisor.gone.is_set()) == (None, True)


async def test_the_death_of_a_runner_that_took_its_code_is_an_end_of_the_code(
    narrow: ProcessSandbox, workspace: Path
) -> None:
    await runner_of(narrow, workspace)
    execution = await run(narrow, "import os\nos.kill(os.getpid(), 9)", workspace)
    assert (execution.ending, execution.error) == (Ending.EXITED, "The process of the code was ended by SIGKILL.")


async def test_a_runner_in_wait_gives_way_to_code_that_has_come(
    narrow: ProcessSandbox, folders: Callable[[], Path]
) -> None:
    one, other = folders(), folders()
    runner = await runner_of(narrow, one)
    with anyio.fail_after(10):
        assert (await run(narrow, "open('here', 'w').close()", other)).ok
    with pytest.raises(ProcessLookupError):
        os.kill(runner, 0)
    assert one.stat().st_uid == os.geteuid()
    # Nobody gives way to what may come.
    narrow.expect(one, tools={}, limits=TEST_LIMITS)
    await anyio.sleep(0.2)
    assert narrow._supervisors[0].workspace == other
    assert (await run(narrow, PID, one)).ok


async def test_code_that_comes_at_once_is_run_at_once(narrow: ProcessSandbox, workspace: Path) -> None:
    narrow.expect(workspace, tools={}, limits=TEST_LIMITS)
    assert (await run(narrow, "print(1)", workspace)).output == "1\n"
    await anyio.sleep(0.2)
    assert left_of(narrow) == set()


async def test_code_that_never_comes_is_forgotten(
    narrow: ProcessSandbox, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.sandbox.supervisor._IDLE_S", 0.3)
    runner = await runner_of(narrow, workspace)
    with anyio.fail_after(10):
        await narrow._supervisors[0].gone.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(runner, 0)
    assert (await run(narrow, "print(1)", workspace)).ok


async def test_a_workspace_that_is_forgotten_keeps_no_process(narrow: ProcessSandbox, workspace: Path) -> None:
    narrow.forget(workspace)  # of which nothing is known
    parent = int((await run(narrow, "import os\nprint(os.getppid())", workspace)).output)
    runner = await runner_of(narrow, workspace)
    narrow.forget(workspace)
    with anyio.fail_after(10):
        await narrow._supervisors[0].gone.wait()
    for process in (runner, parent):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    narrow.expect(workspace, tools={}, limits=TEST_LIMITS)
    narrow.forget(workspace)
    await anyio.sleep(0.2)
    assert left_of(narrow) == set()
    assert (await run(narrow, "print(1)", workspace)).output == "1\n"


async def test_a_sandbox_ends_with_runners_in_wait(folders: Callable[[], Path]) -> None:
    async with ProcessSandbox() as sandbox:
        await run(sandbox, "pass", folders())
        for _ in range(5):
            sandbox.expect(folders(), tools={}, limits=TEST_LIMITS)
        await until(lambda: len(left_of(sandbox)) == 5)
        waiting = left_of(sandbox)
        sandbox.expect(folders(), tools={}, limits=TEST_LIMITS)
    for process in waiting:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


async def test_nothing_comes_of_an_expectation_that_cannot_be_met(narrow: ProcessSandbox, workspace: Path) -> None:
    narrow.expect(workspace / "gone", tools={}, limits=TEST_LIMITS)
    assert narrow._zygote is not None
    narrow._zygote._process.kill()
    narrow.expect(workspace, tools={}, limits=TEST_LIMITS)
    await anyio.sleep(0.2)
    assert narrow._supervisors == {}
    assert (await run(narrow, "print(1)", workspace)).ending is Ending.COMPLETED


async def test_a_supervisor_takes_no_second_execution_for_the_same_code(
    narrow: ProcessSandbox, workspace: Path
) -> None:
    runner = await runner_of(narrow, workspace)
    for _ in range(3):
        narrow.expect(workspace, tools={}, limits=TEST_LIMITS)
        await anyio.sleep(0.1)
    assert left_of(narrow) == {runner}
    assert narrow._supervisors[0].suits(Terms.of(workspace, (), TEST_LIMITS))
    assert not narrow._supervisors[0].suits(Terms.of(workspace, ("tell",), TEST_LIMITS))
