"""A daemon with its API, and a client that speaks to it as any program would."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
import orjson
import pytest

from runtime.config.settings import Api
from tests.acceptance.running import settings_for
from tests.acceptance.scripted import Ask, Script, ScriptedModels, scripted_models
from tests.cli.typed import AtWork, at_work
from tests.folders import reachable_folder

DEADLINE_S = 60
SCRIPT = Script(actions=("stop('42', '')",))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # whatever it is: tests say what it should be
        """The body as JSON."""
        return orjson.loads(self.body)


@dataclass(slots=True)
class Server:
    """A daemon at work, and the models behind it, which answer while `may_answer` is set."""

    work: AtWork
    models: ScriptedModels
    may_answer: anyio.Event
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Send a request; a body that is not bytes goes as JSON."""
        content = None if body is None else io.BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if content is not None:
            sent = {"Content-Type": "application/json"} | sent
        async with self.session.request(method, self.work.url + path, data=content, headers=sent) as response:
            return Answer(response.status, dict(response.headers), await response.read())

    async def submit(self, *names: str, **fields: object) -> Answer:
        """Submit tasks of these names."""
        tasks = [{"record": {"id": name, "question": f"What is {name}?", "answer": "42"}} for name in names]
        return await self.ask("POST", "/v1/tasks", {"tasks": tasks, **fields})

    async def until(self, event_kind: str, number: int) -> None:
        """Wait until the log has so many events of a kind."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                rows = await self.work.daemon.database.fetch(
                    "SELECT count(*) AS n FROM events WHERE kind = ?", (event_kind,)
                )
                if rows[0]["n"] >= number:
                    return
                await anyio.sleep(0.01)


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """A daemon at work; a test may name a token by an indirect parameter."""
    token: str = getattr(request, "param", "")
    may_answer = anyio.Event()

    async def answer(ask: Ask) -> str | int:
        await may_answer.wait()
        return 500 if ask.task.startswith("bad") else await SCRIPT.answer(ask)

    with reachable_folder() as folder:
        async with scripted_models(answer) as models:
            settings = settings_for(models.url, folder / "data", {"bus.attempts": 1})
            environ = {"CSO_API_TOKEN": token} if token else {}
            async with (
                at_work(settings, environ=environ, api=Api(port=0, max_body_mb=1)) as work,
                aiohttp.ClientSession() as session,
            ):
                try:
                    yield Server(work, models, may_answer, session)
                finally:
                    may_answer.set()  # replies under way are waited for
