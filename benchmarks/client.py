"""How fast model calls go through the whole journalled client, beside the bare SDK and bare aiohttp.

256 conversations of 20 KB ask for reply after reply, 100 ms a reply. Ours serialises a request, digests it, sends it
through the endpoint with its limits and deadlines, and commits reply and request with `synchronous=FULL` before it
goes on; the others send and parse. One after the other in this process, on one core; the server has another.

    python -m benchmarks.client [--json] [--check]
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import anyio
import httpx2
import orjson
from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient

from benchmarks.figures import ROUNDS, Figure, pin, run_alone, unpin
from benchmarks.server import ANSWER, REPLY_CHARACTERS, serving
from benchmarks.texts import Texts
from runtime.models.chat import ChatRequest
from runtime.models.endpoint import Endpoint
from runtime.models.journal import Journal, Models, Role
from runtime.models.settings import COMPLETIONS_PATH, EndpointSettings
from store.database import Database
from store.formats.task_files import TaskRecord
from store.messages import Message
from store.runs import create_run
from store.tasks import load_task, submit_task
from store.trajectories import begin_trajectory, load_trajectory
from store.transaction import Transaction

IN_FLIGHT = 256
CALLS_EACH = 24
SDK_CALLS_EACH = 3  # the SDK alone takes so long that fewer must do
LATENCY_S = 0.1
SYSTEM_CHARACTERS = 6_000
OBSERVATION_CHARACTERS = 1_300
SHOWN_TURNS = 5
TARGET = 800.0
TRACE = {"x-cso-task": "task-0", "x-cso-step": "0", "x-cso-module": "plan"}

Ask = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Speed:
    """How one client did: calls a second, and milliseconds of this process's processor time a call."""

    calls: float
    cpu_ms: float


class Conversation:
    """What one agent sends: a system message, and the last turns of a history that grows by its own replies."""

    def __init__(self, number: int, system: str) -> None:
        texts = Texts(f"conversation {number}")
        self.system = system
        # Written before anything is timed, and as long from the first request as it will be.
        self._observations = [texts.prose(OBSERVATION_CHARACTERS) for _ in range(CALLS_EACH + 1)]
        self._turns = [
            (texts.prose(REPLY_CHARACTERS), texts.prose(OBSERVATION_CHARACTERS)) for _ in range(SHOWN_TURNS)
        ]

    def add(self, reply: str) -> None:
        """Take a reply into the history, with what came of it."""
        self._turns = [*self._turns[1:], (reply, self._observations.pop())]

    def messages(self) -> tuple[Message, ...]:
        """The next request, of about 20 KB."""
        found = [Message("system", self.system), Message("user", "Task: what is the total of the table?")]
        for reply, observation in self._turns:
            found += [Message("assistant", reply), Message.joined("user", "Observation:\n", observation)]
        return tuple(found)


def conversations() -> list[Conversation]:
    """One for each that is in flight, the same for every client."""
    system = Texts("system").prose(SYSTEM_CHARACTERS)
    return [Conversation(number, system) for number in range(IN_FLIGHT)]


async def measure(ask: Ask, calls_each: int) -> Speed:
    """Have every conversation make its calls, after one each that opens the connections."""
    await _drive(ask, 1)
    started, cpu = time.perf_counter(), time.process_time()
    await _drive(ask, calls_each)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    calls = IN_FLIGHT * calls_each
    return Speed(calls=calls / wall, cpu_ms=1e3 * cpu / calls)


async def _drive(ask: Ask, calls_each: int) -> None:
    async def converse(number: int) -> None:
        for _ in range(calls_each):
            await ask(number)

    async with anyio.create_task_group() as tasks:
        for number in range(IN_FLIGHT):
            tasks.start_soon(converse, number)


async def journalled(folder: Path, url: str) -> Speed:
    """Our client, from a journal's `ask` to the committed reply."""
    talks, steps = conversations(), [0] * IN_FLIGHT
    async with _journals(folder, url) as journals:

        async def ask(number: int) -> None:
            talk = talks[number]
            reply = await journals[number].ask(
                role="policy", module="plan", step=steps[number], messages=talk.messages()
            )
            steps[number] += 1
            talk.add(reply.content)

        return await measure(ask, CALLS_EACH)


@contextlib.asynccontextmanager
async def _journals(folder: Path, url: str) -> AsyncIterator[list[Journal]]:
    """A journal for each conversation, over one endpoint and one database."""
    settings = EndpointSettings(name="policy", base_url=url, max_in_flight=IN_FLIGHT)
    async with Database(folder) as database, Endpoint(settings) as endpoint:
        await database.write(partial(create_run, name="benchmark", digest="", identity={}))
        role = Role(endpoint=endpoint, model="m", temperature=0.2, top_p=0.95, max_tokens=4096, send_seed=True)
        models = Models({"policy": role}, database=database, seed=7, trace_headers=True)
        trajectories = await database.write(_begin)
        yield [
            await models.journal(await load_trajectory(database, one), await load_task(database, task))
            for task, one in trajectories
        ]


def _begin(transaction: Transaction) -> list[tuple[int, int]]:
    """A task and a trajectory for each conversation; their numbers."""
    found = []
    for number in range(IN_FLIGHT):
        submit_task(transaction, run=1, record=TaskRecord(f"task-{number}", "Why?", ANSWER, None, {}))
        task = transaction.published[-1].task
        assert task is not None  # it tells of a task
        found.append((task, begin_trajectory(transaction, task=task, ordinal=0)))
    return found


def _request(talk: Conversation) -> ChatRequest:
    return ChatRequest(model="m", messages=talk.messages(), temperature=0.2, top_p=0.95, max_tokens=4096, seed=7)


async def bare_aiohttp(url: str) -> Speed:
    """The least that a client can do: serialise, post, parse."""
    talks = conversations()
    headers = {**TRACE, "Authorization": "Bearer EMPTY", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def ask(number: int) -> None:
            body = _request(talks[number]).body()
            async with session.post(f"{url}{COMPLETIONS_PATH}", data=body, headers=headers) as response:
                orjson.loads(await response.read())

        return await measure(ask, CALLS_EACH)


async def bare_sdk(url: str, http: httpx2.AsyncClient) -> Speed:
    """The SDK as its documentation shows it."""
    talks = conversations()
    async with AsyncOpenAI(api_key="EMPTY", base_url=url, max_retries=0, http_client=http) as client:

        async def ask(number: int) -> None:
            await client.chat.completions.create(**orjson.loads(_request(talks[number]).body()), extra_headers=TRACE)

        return await measure(ask, SDK_CALLS_EACH)


async def _run(folder: Path, url: str) -> dict[str, Speed]:
    """The best round of each, taken in turn."""
    limits = httpx2.Limits(max_connections=IN_FLIGHT)
    best: dict[str, Speed] = {}
    for number in range(ROUNDS):
        for name, speed in (
            ("aiohttp and orjson", await bare_aiohttp(url)),
            ("journalled client", await journalled(folder / str(number), url)),
            ("openai SDK on aiohttp", await bare_sdk(url, DefaultAioHttpClient(limits=limits))),
            ("openai SDK", await bare_sdk(url, DefaultAsyncHttpxClient(limits=limits))),
        ):
            best[name] = max(best.get(name, speed), speed, key=lambda one: one.calls)
    return best


def measure_all() -> list[Figure]:
    """All figures of this benchmark."""
    with (
        tempfile.TemporaryDirectory(prefix="cso-bench-") as folder,
        serving(latency=LATENCY_S, tasks=IN_FLIGHT, steps=CALLS_EACH + 1) as url,
    ):
        pin(0)
        try:
            speeds = anyio.run(_run, Path(folder), url)
        finally:
            unpin()
    least = speeds["aiohttp and orjson"]
    figures = []
    for name, speed in speeds.items():
        target = TARGET if name == "journalled client" else None
        against = "" if speed is least else "aiohttp and orjson"
        figures += [
            Figure(
                name=f"{name}, {IN_FLIGHT} in flight",
                value=speed.calls,
                unit="calls/s",
                against=against,
                limit=least.calls if against else None,
                at_least=target,
            ),
            Figure(
                name=f"{name}, processor time",
                value=speed.cpu_ms,
                unit="ms/call",
                against=against,
                limit=least.cpu_ms if against else None,
            ),
        ]
    return figures


if __name__ == "__main__":
    run_alone(measure_all, __doc__)
