"""The API's client: hands requests to the daemon of a data directory, as `cso submit` and its like do."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from typing import cast
from urllib.parse import quote

import aiohttp
import orjson

from runtime.api.bodies import write_tasks_body
from runtime.control import Submitted, UnknownNameError, note_taken, read_parcels
from runtime.errors import ConfigError, CsoError
from store.errors import StorageError
from store.formats.task_files import TaskRecord
from store.jsontypes import JsonValue

# Pausing and cancelling wait for replies that are being paid for; to give up earlier would not hurry them.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=1000.0)
# What is asked for twice is done once, so nobody has to find out how much of it was done.
_GONE = "the daemon has just ended, or is about to: try again in a moment; commands then do without one"
_LOOK_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


class RefusedError(CsoError):
    """Raised when the daemon could not fulfil a request; the message is the daemon's."""


class DaemonGoneError(CsoError):
    """Raised when no daemon answers where one said that it listens, as when it has just ended."""


class RemoteControl:
    """Fulfils requests by handing them to a daemon; see `runtime.control.Control`."""

    def __init__(self, session: aiohttp.ClientSession, *, token_env: str) -> None:
        self._session = session
        self._token_env = token_env

    async def look(self) -> dict[str, JsonValue]:
        """What the daemon is doing, as `GET /v1/daemon` tells; within seconds."""
        return await self._ask("GET", "/v1/daemon", timeout=_LOOK_TIMEOUT)

    async def submit(self, records: Sequence[TaskRecord], *, run: str | None = None, priority: int = 0) -> Submitted:
        """Take tasks into the queue; a note on an error says how many of them were taken before it."""
        new, taker, serving = 0, run or "", False
        halted: dict[str, list[str]] = {"set_aside": [], "given_up": []}
        async for parcels in read_parcels(records):
            try:
                answer = await self._post("/v1/tasks", write_tasks_body(parcels, run=run, priority=priority))
            except CsoError as error:
                note_taken(error, new)
                raise
            new, taker = new + cast("int", answer["new"]), cast("str", answer["run"])
            serving = bool(answer.get("serving", True))  # which a daemon of an earlier release leaves out
            for state, names in halted.items():
                names += cast("list[str]", answer.get(state, []))  # likewise
        return Submitted(
            run=taker,
            new=new,
            known=len(records) - new,
            serving=serving,
            set_aside=tuple(halted["set_aside"]),
            given_up=tuple(halted["given_up"]),
        )

    async def cancel(self, *, run: str, task: str) -> int:
        """Give a task up."""
        answer = await self._post(f"/v1/tasks/{_segment(run)}/{_segment(task)}/cancel")
        return cast("int", answer["deliveries"])

    async def retry(self, *, run: str | None = None, task: str | None = None) -> int:
        """Put what was set aside back into the queue."""
        body: dict[str, JsonValue] = {"all": True} if run is None else {"run": run}
        if task is not None:
            body["task"] = task
        return cast("int", (await self._post("/v1/retry", orjson.dumps(body)))["deliveries"])

    async def pause(self, run: str) -> None:
        """Leave a run alone."""
        await self._post(f"/v1/runs/{_segment(run)}/pause")

    async def resume(self, run: str) -> bool:
        """Take a run up again."""
        return bool((await self._post(f"/v1/runs/{_segment(run)}/resume"))["serving"])

    async def _post(self, path: str, body: bytes | None = None) -> dict[str, JsonValue]:
        return await self._ask("POST", path, body)

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, *, timeout: aiohttp.ClientTimeout = _TIMEOUT
    ) -> dict[str, JsonValue]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        # As a file, which is sent piece by piece: tasks may bring megabytes.
        file = None if body is None else io.BytesIO(body)
        try:
            async with self._session.request(method, path, data=file, headers=headers, timeout=timeout) as response:
                content = await response.read()
        except TimeoutError as error:
            raise DaemonGoneError("the daemon does not answer: look at its log, then try again") from error
        except (aiohttp.ClientError, OSError) as error:
            raise DaemonGoneError(_GONE) from error
        answer = _decoded(content)
        said = str(answer.get("error", f"the daemon answered with status {response.status}"))
        match response.status:
            case 200:
                return answer
            case 401:
                raise ConfigError(
                    "the daemon wants another token: put the one that it was started with into "
                    f"{self._token_env or 'the variable that api.token_env names'}"
                )
            case 404:
                raise UnknownNameError(said)
            case 400 | 409 | 413:
                raise ConfigError(said)  # what was asked for, or a task, must be changed
            case 503 if "trouble" in answer:
                raise StorageError(f"the daemon cannot do this now: {said}")
            case _:
                raise RefusedError(said)


@contextlib.asynccontextmanager
async def connect(url: str, *, token: str | None, token_env: str) -> AsyncIterator[RemoteControl]:
    """A client of the API at a base URL.

    Args:
        token: what the daemon wants, if anything.
        token_env: the variable from which it came, for messages.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(url, headers=headers, timeout=_TIMEOUT, trust_env=False) as session:
        yield RemoteControl(session, token_env=token_env)


def _segment(name: str) -> str:
    return quote(name, safe="")


def _decoded(content: bytes) -> dict[str, JsonValue]:
    with contextlib.suppress(orjson.JSONDecodeError):
        answer = orjson.loads(content)
        if isinstance(answer, dict):
            return answer
    return {}
