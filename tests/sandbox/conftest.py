"""A sandbox for all tests of a module, workspaces that its code can reach, and a look at who is left."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from runtime.sandbox import Execution, Limits, ProcessSandbox, Tool
from runtime.sandbox.child.identity import BLOCK

TEST_LIMITS = Limits(timeout=20.0, memory_mb=512, output_bytes=4096, file_mb=8, processes=24, open_files=64)


class Run(Protocol):
    """Runs code in the test's own workspace."""

    async def __call__(
        self, code: str, *, tools: Mapping[str, Tool] | None = None, limits: Limits = TEST_LIMITS
    ) -> Execution: ...


def marked(marker: str) -> set[int]:
    """The processes whose environment holds a sandbox's marker; those that have ended have none."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if f"CSO_SANDBOX={marker}".encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
    return found


def left_of(sandbox: ProcessSandbox) -> set[int]:
    """The processes of a sandbox's executions that are still there.

    Supervisors stay for the next execution. Only root can see them, by the user ids that are theirs alone.
    """
    zygote = sandbox._zygote
    assert zygote is not None
    first = zygote.first_uid
    others = {None} if first is None else {None, *range(first + 1, first + BLOCK, 2)}
    return {pid for pid in marked(sandbox._marker) - {zygote._process.pid} if _real_uid(pid) not in others}


def _real_uid(pid: int) -> int | None:
    """The user of a process, None if it has ended."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("\nUid:")[2].split()[0])
    return None


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    async with ProcessSandbox() as sandbox:
        yield sandbox


@pytest.fixture
def folders() -> Iterator[Callable[[], Path]]:
    """Makes workspaces that code can reach, which under pytest's own folder it cannot when we are root."""
    root = Path(tempfile.mkdtemp(prefix="cso-test-"))
    root.chmod(0o711)

    def make() -> Path:
        return Path(tempfile.mkdtemp(dir=root))

    yield make
    # Some tests nest folders deeper than shutil can remove.
    subprocess.run(["rm", "-rf", root], check=True)


@pytest.fixture
def workspace(folders: Callable[[], Path]) -> Path:
    return folders()


@pytest.fixture
async def run(sandbox: ProcessSandbox, workspace: Path) -> AsyncIterator[Run]:
    """Runs code, and makes sure each time that nothing of it is left."""

    async def run(code: str, *, tools: Mapping[str, Tool] | None = None, limits: Limits = TEST_LIMITS) -> Execution:
        execution = await sandbox.run(code, workspace=workspace, tools=tools or {}, limits=limits)
        assert left_of(sandbox) == set()
        return execution

    yield run
    assert left_of(sandbox) == set()
