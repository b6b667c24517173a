"""A model server that says what the test wants, over real HTTP, and keeps what it was asked."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from runtime.agents.main.replies import render_reply
from runtime.simulation.standins import Standins
from store.events import Event
from store.formats.task_files import TaskRecord
from store.messages import Message
from store.summary import Summary
from tests.acceptance.running import settings_for, work
from tests.models.server import completion

TRACES = ("role", "module", "task", "trajectory", "step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as it came: its trace headers and its body."""

    role: str
    module: str
    task: str
    trajectory: str
    step: int
    body: dict[str, Any]  # JSON from outside

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""
        return tuple(Message(message["role"], message["content"]) for message in self.body["messages"])

    @property
    def last(self) -> str:
        """The last message."""
        return self.messages[-1].content

    @property
    def seed(self) -> int:
        """The seed that came along."""
        return int(self.body["seed"])

    @property
    def in_branch(self) -> bool:
        """Whether it is about a branch."""
        return "@" in self.trajectory


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error whose code says why the request is refused; with status 200 a reply that ends for that reason."""

    code: str
    status: int = 400


FILTER, CUT_OFF = Refusal("content_filter"), Refusal("content_filter", 200)
OVERFLOW = Refusal("context_length_exceeded")
# A text is the reply, a number the status of an error.
Said = str | int | Refusal
Answer = Callable[[Ask], Awaitable[Said]]


@dataclass(slots=True)
class ScriptedModels:
    """The server while it listens: its address, and every request in the order of arrival."""

    url: str = ""
    asks: list[Ask] = field(default_factory=list)

    def of(self, role: str, module: str = "", trajectory: str = "") -> list[Ask]:
        """The requests of a role, of one module and trajectory if given."""
        return [
            ask
            for ask in self.asks
            if ask.role == role and module in ("", ask.module) and trajectory in ("", ask.trajectory)
        ]


@contextlib.asynccontextmanager
async def scripted_models(answer: Answer) -> AsyncIterator[ScriptedModels]:
    """Serve on a free port of loopback while the block runs."""
    models = ScriptedModels()

    async def complete(request: web.Request) -> web.Response:
        given = {name: request.headers[f"x-cso-{name}"] for name in TRACES}
        ask = Ask(
            role=given["role"],
            module=given["module"],
            task=given["task"],
            trajectory=given["trajectory"],
            step=int(given["step"]),
            body=orjson.loads(await request.read()),
        )
        models.asks.append(ask)
        said = await answer(ask)
        if isinstance(said, Refusal) and said.status == 200:
            return web.json_response(completion("half a", said.code))
        if isinstance(said, Refusal):
            return web.json_response({"error": {"message": "scripted", "code": said.code}}, status=said.status)
        if isinstance(said, int):
            return web.json_response({"error": {"message": "scripted", "type": "error"}}, status=said)
        return web.json_response(completion(said))

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port, *_ = runner.addresses[0]
        models.url = f"http://{host}:{port}/v1"
        yield models
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A policy, an expert, a PRM and a judge that go by a list.

    `actions` are the policy's programs by step (the last one goes on for ever), `replies` its whole replies instead
    where a step has one; `alternatives` the expert's programs by step; `scores` the PRM's replies by program.
    """

    actions: tuple[str, ...]
    replies: Mapping[int, str] = field(default_factory=dict)
    plans: Mapping[int, str] = field(default_factory=dict)
    alternatives: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    scores: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    direct: str = "no idea"
    verdict: str = "Verdict: no"

    async def answer(self, ask: Ask) -> str | int:
        """What the script says."""
        match ask.role, ask.module:
            case "policy", "plan":
                state = {"completed_list": [f"before step {ask.step}"], "todo_list": [], "experience": []}
                return self.plans.get(ask.step, render_reply("A plan.", repr({**state, "information": []})))
            case "policy", "action":
                code = self.actions[min(ask.step, len(self.actions) - 1)]
                return self.replies.get(ask.step, render_reply("An action.", code))
            case "policy", "end":
                return self.ends[0] if self.ends else _end_of(ask.last)
            case "policy", _:
                return self.direct
            case "expert", _:
                programs = self.alternatives.get(ask.step, self.actions[-1:])
                return render_reply("Better.", programs[ask.seed % len(programs)])
            case "prm", _:
                _, _, candidate = ask.last.rpartition("Candidate action of step ")
                for code, reply in self.scores.items():
                    if code in candidate:
                        return reply
                return "Score: 0.55"
        return self.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A run over scripted models that has come to its end."""

    data: Path
    models: ScriptedModels
    summary: Summary
    events: list[Event]


def task(name: str = "t", answer: str = "42", file: Path | None = None) -> TaskRecord:
    """A task whose question names it."""
    return TaskRecord(name, f"What is the answer to {name}?", answer, file, {})


async def play(
    answer: Answer, data: Path, *, tasks: Sequence[TaskRecord] = (), changes: Mapping[str, object] | None = None
) -> Played:
    """Run the method over scripted models, by default on one task, until nothing is left to do."""
    events: list[Event] = []
    async with scripted_models(answer) as models:
        summary = await work(settings_for(models.url, data, changes), tasks or [task()], watchers=[events.append])
    return Played(data=data, models=models, summary=summary, events=events)


def _end_of(closing: str) -> str:
    """The result that the run was given, as the final one."""
    given = closing.partition("Result given: ")[2].partition("\n")[0]
    return render_reply("Done.", repr({"output": given, "log": "by the script"}))


def from_world(standins: Standins) -> Answer:
    """Answer as the world's stand-ins do; to be wrapped by what is to go otherwise."""

    async def answer(ask: Ask) -> str | int:
        return standins.reply(ask.body)

    return answer
