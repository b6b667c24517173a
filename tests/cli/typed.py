"""`cso` commands typed beside a daemon in this process, whose models a script plays."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import orjson
import pytest
import structlog

from runtime.api.live import Live
from runtime.cli.main import main
from runtime.config.settings import Api, Settings
from runtime.daemon import Daemon, open_daemon
from runtime.serve import around
from runtime.service_manager import ServiceManager
from runtime.stopping import Stop
from tests.acceptance.programs import Ran

ROLES = ("policy", "expert", "prm")


async def typed(*words: str | Path) -> Ran:
    """Run a command line on a thread of its own, and so on an event loop of its own."""
    output, said = io.StringIO(), io.StringIO()

    def run() -> int:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        assert isinstance(end.value.code, int)
        return end.value.code

    with structlog.testing.capture_logs():
        status = await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
    return Ran(status, output.getvalue(), said.getvalue())


@dataclass(frozen=True, slots=True)
class AtWork:
    """A daemon at work with its API."""

    daemon: Daemon
    live: Live
    stop: Stop

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return self.live.url


@contextlib.asynccontextmanager
async def at_work(
    settings: Settings, *, environ: Mapping[str, str] | None = None, api: Api | None = None
) -> AsyncIterator[AtWork]:
    """Have a daemon work on all runs of its data directory, as `cso serve` has it, while the block runs."""
    stop = Stop(grace=60.0, tell=lambda _text: None)
    api = api or Api(port=0)
    async with (
        open_daemon(settings, {}, every_run=True) as daemon,
        around(daemon, stop, environ or {}, api=api, manager=ServiceManager({})) as live,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(lambda: daemon.work(until_drained=False))
        yield AtWork(daemon, live, stop)
        tasks.cancel_scope.cancel()


def write_configuration(folder: Path, url: str) -> Path:
    """The configuration file of a quick daemon whose models listen at a URL; its data directory is folder/data."""
    lines = ["[run]", f'data = "{folder / "data"}"', "[bus]", "delay = 0.01", "max_delay = 0.05", "attempts = 2"]
    for role in ROLES:
        lines += [
            f"[models.{role}]",
            f'base_url = "{url}"',
            f'model = "sim-{role}"',
            'api_key_env = ""',
            "attempts = 1",
        ]
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_tasks(path: Path, names: Sequence[str], *, answer: str = "42") -> Path:
    """A task file with tasks of these names."""
    lines = [{"id": name, "question": f"What is the answer to {name}?", "answer": answer} for name in names]
    path.write_bytes(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
    return path
