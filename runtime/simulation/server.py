"""The simulated models as a server that speaks the OpenAI protocol on loopback.

    POST /v1/chat/completions   answered by the stand-in that the request's model names
    GET  /v1/models             the stand-ins
    GET  /sim/record            every request so far as JSON lines, in order of arrival
    GET  /sim/stats             calls, statuses, calls in flight now and at most, by role
    POST /sim/faults            change capacity, latency, jitter and faults while running
    GET  /sim/faults            what is set now

Replies depend on the requests' contents alone. `python -m runtime.simulation.server --help` lists the options.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson
from aiohttp import web

from runtime.simulation.behaviour import Behaviour, behaviour_settings, changed, reply_seconds
from runtime.simulation.completions import completion, estimated_usage
from runtime.simulation.faults import Fault, commit, error_response
from runtime.simulation.inquiry import InquiryError
from runtime.simulation.record import TRACE_HEADERS, Entry, Record, Traffic
from runtime.simulation.standins import ROLES, Habits, Standins, UnknownModelError
from runtime.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_LARGEST_BODY = 64 * 2**20
_CLIENT_GONE = 499
_RESETS = (Fault.RESET_BEFORE, Fault.RESET_DURING)


class SimulationServer:
    """The server, as an async context manager: it listens from `async with` on, on a free port unless one is given.

    `record` is a file to which every request is appended; without `keep`, requests are counted but not kept in
    memory. With `api_key`, requests without it as bearer token are refused with 401.
    """

    def __init__(
        self,
        world: World,
        *,
        habits: Habits | None = None,
        behaviour: Behaviour | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        record: Path | None = None,
        keep: bool = True,
        api_key: str | None = None,
    ) -> None:
        self.world = world
        self.behaviour = behaviour or Behaviour()
        self._standins = Standins(world, habits)
        self._host, self._port = host, port
        self._api_key = api_key
        self.record = Record(record, keep=keep)
        self._moved = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        """The address for clients, ending in /v1; raises RuntimeError before the server listens."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """The address without a path, for /sim/…; raises RuntimeError before the server listens."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the server does not listen yet: use it as `async with SimulationServer(…)`")
        host, port, *_ = self._runner.addresses[0]
        return f"http://{host}:{port}"

    async def until(self, condition: Callable[[Traffic], bool]) -> None:
        """Wait until the traffic meets a condition, looked at as calls come and go; set your own deadline."""
        while not condition(self.record.traffic):
            await self._moved.wait()

    def _announce(self) -> None:
        """Wake whoever waits for a call to come or go; those who come later wait for the next one."""
        self._moved.set()
        self._moved.clear()

    async def __aenter__(self) -> Self:
        # A client that goes away ends its call at once, as it would at a real endpoint.
        self._runner = web.AppRunner(self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, backlog=4096).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self.record.shut()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/sim/record", self._show_record)
        app.router.add_get("/sim/stats", self._show_stats)
        app.router.add_get("/sim/faults", self._show_faults)
        app.router.add_post("/sim/faults", self._set_faults)
        return app

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        """Answer one call, and see to its entry in the record however it ends."""
        raw = await request.read()
        loop = asyncio.get_running_loop()
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            body = None
        entry = self._enter(request, raw, body, loop.time())
        self._announce()
        status = _CLIENT_GONE
        try:
            response = await self._respond(request, entry, body)
            status = response.status
        finally:
            # A reset cancels this handler too; it must not look as if the client had gone by itself.
            status = 0 if entry.fault in _RESETS else status
            self.record.close(entry, status=status, now=loop.time())
            self._announce()
        return response

    def _enter(self, request: web.Request, raw: bytes, body: Any, now: float) -> Entry:
        model = body.get("model") if isinstance(body, dict) else None
        name = model if isinstance(model, str) else ""
        traces = {key: request.headers[f"x-cso-{key}"] for key in TRACE_HEADERS if f"x-cso-{key}" in request.headers}
        role = ROLES.get(name, "unknown")
        return self.record.open(model=name, role=role, headers=traces, body=raw, is_json=body is not None, now=now)

    async def _respond(self, request: web.Request, entry: Entry, body: Any) -> web.StreamResponse:
        response = self._refused(request, entry) or self._composed(entry, body)
        if isinstance(response, web.Response):
            pass
        elif entry.fault is not None:
            return await commit(Fault(entry.fault), self.behaviour.faults, request, response)
        else:
            await self._take_time(entry)
            response = web.Response(body=response, content_type="application/json")
        response.headers["x-request-id"] = f"req-{entry.digest[:16]}-{entry.attempt}"
        return response

    def _refused(self, request: web.Request, entry: Entry) -> web.Response | None:
        """Refuse a call before it is looked at, or choose the fault that it will meet."""
        if self._api_key is not None and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return error_response(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided.")
        capacity = self.behaviour.capacity
        if capacity is not None and self.record.traffic.in_flight[""] > capacity:
            entry.fault = "capacity"
            return error_response(429, "rate_limit_error", "rate_limit_exceeded", "Too many requests in flight.")
        entry.fault = self.behaviour.faults.choose(entry.digest, entry.attempt, entry.model)
        return None

    def _composed(self, entry: Entry, body: Any) -> bytes | web.Response:
        """Return the body of the completion, or the refusal of a request that cannot be answered."""
        if body is None:
            return error_response(400, "invalid_request_error", None, "We could not parse the JSON body.")
        try:
            text = self._standins.reply(body)
        except InquiryError as error:
            return error_response(400, "invalid_request_error", None, str(error))
        except UnknownModelError as error:
            message = f"The model '{error}' does not exist. There are: {', '.join(ROLES)}."
            return error_response(404, "invalid_request_error", "model_not_found", message)
        usage = estimated_usage(body, text)
        allowed = self.behaviour.context_tokens
        if allowed is not None and usage["prompt_tokens"] > allowed:
            message = f"This model's maximum context length is {allowed} tokens."
            return error_response(400, "invalid_request_error", "context_length_exceeded", message)
        return orjson.dumps(completion(entry, body, text, usage))

    async def _take_time(self, entry: Entry) -> None:
        seconds = reply_seconds(self.behaviour, entry.digest)
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _models(self, _request: web.Request) -> web.Response:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "simulation"} for name in ROLES]
        return _json({"object": "list", "data": models})

    async def _show_record(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.record.lines(), content_type="application/x-ndjson")

    async def _show_stats(self, _request: web.Request) -> web.Response:
        return _json(self.record.traffic.figures())

    async def _show_faults(self, _request: web.Request) -> web.Response:
        return _json(behaviour_settings(self.behaviour))

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            self.behaviour = changed(self.behaviour, orjson.loads(await request.read()))
        except (ValueError, TypeError) as error:
            return error_response(400, "invalid_request_error", None, str(error))
        return _json(behaviour_settings(self.behaviour))


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


if __name__ == "__main__":
    # Imported here alone: the command line imports this module.
    from runtime.simulation.command import main

    main()
