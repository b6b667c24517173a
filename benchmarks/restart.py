"""Starting again over a long history, and a queue longer than memory should care about.

A database is filled with finished tasks and unfinished ones, in part begun. Then `cso serve` is started on it, some
times, in a process of its own. What is measured is the least time from its start to the first model call that reaches
the server, and its greatest resident memory while it works. Then the same with a queue of ten thousand tasks beside
one of a few, and the time that `cso status` takes beside it all.

    python -m benchmarks.restart [--json] [--check]
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
from aiohttp import web

from benchmarks.figures import ROUNDS, Figure, run_alone
from runtime.config.identity import digest, identity
from runtime.config.settings import Settings
from store.calls import CallRecord, Place, record_call
from store.database import FILE_NAME, Database
from store.deliveries import Delivery, complete_delivery
from store.events import Event, TrajectoryCompleted
from store.formats.task_files import TaskRecord
from store.messages import Message
from store.runs import create_run
from store.tasks import submit_task
from store.trajectories import Step, Trajectory, add_step, begin_trajectory, end_trajectory
from store.transaction import Transaction

FINISHED = 100_000
UNFINISHED = 1_000
BEGUN = 64  # of the unfinished
QUEUE = 10_000
STEPS = 4
WATCHED_S = 8.0
_GROUP = 200
_SYSTEM = Message("system", "You are a careful agent. " * 100)
_WORDS = "The total of the third table is wanted; the first two have been read and hold nothing of it. " * 8
_REPLIES = {
    "plan": "{'completed_list': [], 'todo_list': ['look'], 'experience': [], 'information': []}",
    "action": "print(sum(range(1000)))",
    "end": "{'output': '42', 'log': 'looked'}",
    "direct": "'42'",
}


@dataclass(slots=True)
class Models:
    """A model server that says when it was first asked."""

    latency: float = 0.2
    first: float | None = None
    asked: anyio.Event = field(default_factory=anyio.Event)

    def seconds_since(self, began: float) -> float:
        """How long it took until the first question, which must have come."""
        if self.first is None:
            raise RuntimeError("no model was asked")
        return self.first - began

    async def answer(self, request: web.Request) -> web.Response:
        """Reply with what the module wants."""
        if self.first is None:
            self.first = time.perf_counter()
            self.asked.set()
        await request.read()
        await anyio.sleep(self.latency)
        code = _REPLIES[request.headers["x-cso-module"]]
        content = f"Thought: {_WORDS}\nCode:\n```python\n{code}\n```"
        message = {"role": "assistant", "content": content}
        usage = {"prompt_tokens": 3000, "completion_tokens": 300, "total_tokens": 3300}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response(
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
        )


@contextlib.asynccontextmanager
async def models_at(models: Models) -> AsyncIterator[str]:
    """Serve models while the block runs; the base URL."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", models.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def settings_for(folder: Path, url: str) -> Settings:
    """The settings of the daemon under test, which are also written for it."""
    roles = {role: {"base_url": url, "model": f"m-{role}", "api_key_env": ""} for role in ("policy", "expert", "prm")}
    sections = "".join(
        f'[models.{role}]\nbase_url = "{url}"\nmodel = "m-{role}"\napi_key_env = ""\n' for role in roles
    )
    (folder / "config.toml").write_text(f"[api]\nport = 0\n{sections}", encoding="utf-8")
    return Settings.model_validate({"run": {"data": folder / "cso-data"}, "models": roles})


async def fill(settings: Settings, *, finished: int, unfinished: int, begun: int) -> None:
    """Put a history into a new database, through the functions that the daemon uses."""
    fixed = identity(settings)
    async with Database(settings.run.data, subscriptions={"task-submitted": ["collect"]}) as database:
        make = partial(create_run, name=settings.run.name, digest=digest(fixed), identity=fixed)
        run = (await database.write(make)).id
        for first in range(0, finished, _GROUP):
            last = min(first + _GROUP, finished)
            await database.write(partial(_add_tasks, run=run, numbers=range(first, last), steps=STEPS, ends=True))
        waiting = finished + begun
        await database.write(partial(_add_tasks, run=run, numbers=range(finished, waiting), steps=2, ends=False))
        for first in range(waiting, finished + unfinished, _GROUP):
            numbers = range(first, min(first + _GROUP, finished + unfinished))
            await database.write(partial(_add_tasks, run=run, numbers=numbers, steps=0, ends=False))


def _add_tasks(transaction: Transaction, *, run: int, numbers: range, steps: int, ends: bool) -> None:
    for number in numbers:
        name = f"task-{number}"
        record = TaskRecord(name, f"What is the total of table {number}?", "42", None, {"id": name})
        submit_task(transaction, run=run, record=record)
        submitted = transaction.published[-1]
        assert submitted.task is not None  # it tells of a task
        if steps:
            trajectory = _add_rollout(transaction, submitted, steps=steps)
        if ends:
            end_trajectory(transaction, trajectory.id, outcome="success", stop_reason="stopped", answer="42")
            told = TrajectoryCompleted(
                run=run,
                task=submitted.task,
                trajectory=trajectory.id,
                steps=steps,
                stop_reason="stopped",
                outcome="success",
            )
            transaction.publish(told)
            complete_delivery(transaction, Delivery("collect", submitted), lambda _transaction: None)


def _add_rollout(transaction: Transaction, submitted: Event, *, steps: int) -> Trajectory:
    assert submitted.task is not None  # as above
    identifier = begin_trajectory(transaction, task=submitted.task, ordinal=0)
    trajectory = Trajectory(
        id=identifier,
        run=submitted.run,
        task=submitted.task,
        label="",
        fork=None,
        ordinal=0,
        outcome=None,
        stop_reason=None,
        answer=None,
        error=None,
    )
    for index in range(steps):
        for module in ("plan", "action"):
            _add_call(transaction, trajectory, index, module)
        step = Step(
            index=index,
            action=f"print({identifier})",
            state="{}",
            observation=f"{identifier} {_WORDS[: 200 + index]}",
            workspace=None,
            result="42" if index == STEPS - 1 else None,
            failed=False,
            seconds=1.0,
        )
        add_step(transaction, trajectory, step, workspace=None)
    return trajectory


def _add_call(transaction: Transaction, trajectory: Trajectory, step: int, module: str) -> None:
    place = Place(trajectory=trajectory.id, step=step, role="policy", module=module)
    record = CallRecord(
        place=place,
        digest=f"{module}-{step}".encode(),
        content=f"{trajectory.id} {step} {module} {_WORDS}",
        reasoning="",
        finish_reason="stop",
        prompt_tokens=3000,
        completion_tokens=300,
        cached_tokens=0,
        latency=1.0,
        attempts=1,
        endpoint="policy",
    )
    messages = (_SYSTEM, Message("user", f"Step {step} of {trajectory.id}"))
    record_call(transaction, run=trajectory.run, task=trajectory.task, messages=messages, record=record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """How a start went: seconds to the first model call, and the most memory that was resident, in MiB."""

    seconds: float
    memory: float


async def start(folder: Path, models: Models, *, beside: list[list[str]] | None = None) -> Started:
    """Start the daemon in a folder, watch it for a while, and stop it."""
    models.first, models.asked = None, anyio.Event()
    began = time.perf_counter()
    process = await anyio.open_process(
        [sys.executable, "-m", "runtime.cli.main", "serve"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Bytecode is kept, as after an installation, so that only the first of the starts compiles anything.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": ""},
    )
    try:
        with anyio.fail_after(120):
            await models.asked.wait()
        seconds = models.seconds_since(began)
        for command in beside or []:
            await anyio.run_process([sys.executable, "-m", "runtime.cli.main", *command], cwd=folder, check=True)
        await anyio.sleep(WATCHED_S)
        return Started(seconds=seconds, memory=_peak_mib(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        with anyio.CancelScope(shield=True):
            await process.aclose()


def _peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


async def restart(folder: Path) -> list[Figure]:
    """Start over a long history."""
    models = Models()
    async with models_at(models) as url:
        settings = settings_for(folder, url)
        await fill(settings, finished=FINISHED, unfinished=UNFINISHED, begun=BEGUN)
        size = (settings.run.data / FILE_NAME).stat().st_size / 1e6
        starts = [await start(folder, models) for _ in range(ROUNDS)]
        asked = time.perf_counter()
        await anyio.run_process([sys.executable, "-m", "runtime.cli.main", "status", "--json"], cwd=folder)
        status = time.perf_counter() - asked
    history = f"{FINISHED:,} finished, {UNFINISHED:,} unfinished"
    return [
        Figure(name=f"first model call, {history}", value=min(one.seconds for one in starts), unit="s", at_most=2.0),
        Figure(
            name=f"resident memory, {history}", value=max(one.memory for one in starts), unit="MiB", at_most=300.0
        ),
        Figure(name=f"cso status, {history}", value=status, unit="s"),
        Figure(name=f"database, {history}", value=size, unit="MB"),
    ]


async def queues(folder: Path) -> list[Figure]:
    """Start over a short and a long queue, and have as long a one submitted."""
    found: dict[str, Started] = {}
    models = Models()
    async with models_at(models) as url:
        for name, length in (("short", 100), ("long", QUEUE)):
            (folder / name).mkdir()
            settings = settings_for(folder / name, url)
            await fill(settings, finished=0, unfinished=length, begun=0)
            found[name] = await start(folder / name, models)
        more = folder / "short" / "more.jsonl"
        lines = (
            f'{{"id": "more-{number}", "question": "What is {number}?", "answer": "42"}}\n' for number in range(QUEUE)
        )
        more.write_text("".join(lines), encoding="utf-8")
        found["submitted"] = await start(folder / "short", models, beside=[["submit", str(more)]])
    short = found["short"].memory
    return [
        Figure(name="resident memory, 100 queued", value=short, unit="MiB"),
        *(
            Figure(
                name=f"resident memory, {QUEUE:,} {what}",
                value=found[name].memory,
                unit="MiB",
                against="100 queued",
                limit=short,
                at_most=short + 10.0,
            )
            for name, what in (("long", "queued"), ("submitted", "submitted meanwhile"))
        ),
    ]


def measure() -> list[Figure]:
    """All figures."""
    found: list[Figure] = []
    for part in (restart, queues):
        with tempfile.TemporaryDirectory(prefix="cso-restart-") as folder:
            found += anyio.run(part, Path(folder))
    return found


if __name__ == "__main__":
    run_alone(measure, __doc__)
