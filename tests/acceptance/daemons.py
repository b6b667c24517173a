"""`cso serve` as its service manager starts it: a process of its own, whose log is read and which is sent signals."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import orjson
from anyio.streams.text import TextReceiveStream

from tests.acceptance.programs import command

DEADLINE_S = 60
_ROOT = Path(__file__).parents[2]


class ServeProcess:
    """A daemon, its log so far, and how it ended."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._news = anyio.Event()
        self.lines: list[dict[str, Any]] = []  # the log, or {"text": …} for what is no JSON

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def said(self, event: str, *, after: int = 0, **facts: object) -> dict[str, Any]:
        """Wait until it has logged an event with some facts, behind the first `after` lines."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                for line in self.lines[after:]:
                    if line.get("event") == event and facts.items() <= line.items():
                        return line
                await self._news.wait()

    async def said_that(self, beginning: str) -> dict[str, Any]:
        """Wait until it has logged an event whose text begins so."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                for line in self.lines:
                    if line.get("event", "").startswith(beginning):
                        return line
                await self._news.wait()

    async def ended(self) -> int:
        """Wait for its end; its exit code, negative if a signal ended it."""
        with anyio.fail_after(DEADLINE_S):
            return await self._process.wait()

    async def read(self) -> None:
        """Read the log to its end."""
        assert self._process.stderr is not None  # it was started with a pipe
        rest = ""
        async for text in TextReceiveStream(self._process.stderr):
            *lines, rest = (rest + text).split("\n")
            self.lines += [orjson.loads(line) if line.startswith("{") else {"text": line} for line in lines]
            self._news.set()
            self._news = anyio.Event()


@contextlib.asynccontextmanager
async def serve(*words: str | Path, environ: Mapping[str, str]) -> AsyncIterator[ServeProcess]:
    """Start `cso serve`, on a free port unless the words say another; it does not outlive the block."""
    process = await anyio.open_process(
        command(["serve", "--port", "0", *words]),
        env={**{name: value for name, value in os.environ.items() if not name.startswith("CSO_")}, **environ},
        cwd=_ROOT,
        stdin=None,
        stdout=None,
        start_new_session=True,
    )
    daemon = ServeProcess(process)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.read)
        try:
            yield daemon
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()


def environ_for(url: str, data: Path) -> dict[str, str]:
    """The environment of a quick daemon whose models one server simulates."""
    found = {
        "CSO_RUN__DATA": str(data),
        "CSO_RUN__ROLLOUTS": "4",
        "CSO_BUS__DELAY": "0.01",
        "CSO_BUS__MAX_DELAY": "0.05",
    }
    for role in ("POLICY", "EXPERT", "PRM"):
        found |= {
            f"CSO_MODELS__{role}__BASE_URL": url,
            f"CSO_MODELS__{role}__MODEL": f"sim-{role.lower()}",
            f"CSO_MODELS__{role}__API_KEY_ENV": "",
            f"CSO_MODELS__{role}__ATTEMPTS": "1",
        }
    return found
