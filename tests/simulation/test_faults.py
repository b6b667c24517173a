"""Faults over real HTTP: each is what it says, and all can be repeated."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import aiohttp
import anyio
import orjson
import pytest

from runtime.simulation.behaviour import Behaviour
from runtime.simulation.faults import Fault, FaultPlan
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from tests.simulation import asking

WORLD = World.generate(1, 12)
TASK = WORLD.tasks[0]


def server_with(fault: Fault, *, drip: float = 0.01, attempts: int | None = None) -> SimulationServer:
    """A server that always commits one fault."""
    plan = FaultPlan(rates={fault: 1.0}, drip=drip, attempts=attempts, retry_after=2)
    return SimulationServer(WORLD, behaviour=Behaviour(faults=plan))


Answer = tuple[int, dict[str, str], bytes]


async def send(server: SimulationServer, http: aiohttp.ClientSession, seed: int = 1) -> Answer:
    """Ask once; return status, headers and body."""
    url = f"{server.base_url}/chat/completions"
    async with http.post(url, data=orjson.dumps(asking.action(TASK, 0, seed=seed))) as response:
        return response.status, {key.lower(): value for key, value in response.headers.items()}, await response.read()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault.RATE_LIMIT, 429, "rate_limit_exceeded"),
        (Fault.SERVER_ERROR, 500, None),
        (Fault.UNAVAILABLE, 503, "overloaded"),
        (Fault.NO_MODEL, 404, "model_not_found"),
        (Fault.UNAUTHORIZED, 401, "invalid_api_key"),
        (Fault.CONTEXT_LENGTH, 400, "context_length_exceeded"),
        (Fault.CONTENT_FILTER, 400, "content_filter"),
    ],
)
async def test_refusals_have_the_form_of_the_protocol(fault: Fault, status: int, code: str | None) -> None:
    async with server_with(fault) as server, aiohttp.ClientSession() as http:
        got, headers, body = await send(server, http)
    assert (got, orjson.loads(body)["error"]["code"]) == (status, code)
    assert "retry-after" not in headers


async def test_a_rate_limit_can_say_when_to_come_back() -> None:
    async with server_with(Fault.RATE_LIMIT_SECONDS) as server, aiohttp.ClientSession() as http:
        status, headers, _ = await send(server, http)
    assert (status, headers["retry-after"]) == (429, "2")
    async with server_with(Fault.RATE_LIMIT_DATE) as server, aiohttp.ClientSession() as http:
        status, headers, _ = await send(server, http)
    wait = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
    assert status == 429
    assert 0 <= wait.total_seconds() <= 4


async def test_a_bad_gateway_answers_with_a_page() -> None:
    async with server_with(Fault.BAD_GATEWAY) as server, aiohttp.ClientSession() as http:
        status, headers, body = await send(server, http)
    assert status == 502
    assert headers["content-type"].startswith("text/html")
    assert body.startswith(b"<html>")


async def test_a_reset_before_the_answer_breaks_the_connection() -> None:
    async with server_with(Fault.RESET_BEFORE) as server, aiohttp.ClientSession() as http:
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await send(server, http)
        await closed(server)
    assert server.record.entries[0].status == 0


async def test_a_reset_in_the_body_breaks_it_off() -> None:
    async with server_with(Fault.RESET_DURING) as server, aiohttp.ClientSession() as http:
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await send(server, http)
        await closed(server)
    assert server.record.entries[0].status == 0


async def closed(server: SimulationServer) -> None:
    """Wait until no call is in flight, at most 10 s."""
    with anyio.fail_after(10):
        await server.until(lambda traffic: traffic.in_flight[""] == 0)


async def test_a_stalled_call_gets_nothing_until_the_client_leaves() -> None:
    async with server_with(Fault.STALL) as server, aiohttp.ClientSession() as http:
        with anyio.move_on_after(0.3) as scope:
            await send(server, http)
        assert scope.cancelled_caught
        await closed(server)
    assert (server.record.entries[0].fault, server.record.entries[0].status) == ("stall", 499)


async def test_a_drip_comes_piece_by_piece_and_is_whole_in_the_end() -> None:
    async with server_with(Fault.DRIP, drip=0.2) as server, aiohttp.ClientSession() as http:
        url = f"{server.base_url}/chat/completions"
        async with http.post(url, data=orjson.dumps(asking.action(TASK, 0))) as response:
            pieces = [piece async for piece, _ in response.content.iter_chunks()]
    assert len(pieces) > 5
    assert orjson.loads(b"".join(pieces))["object"] == "chat.completion"


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.MALFORMED])
async def test_spoilt_replies_are_complete_responses_without_json(fault: Fault) -> None:
    async with server_with(fault) as server, aiohttp.ClientSession() as http:
        status, headers, body = await send(server, http)
    assert (status, headers["content-type"]) == (200, "application/json")
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(body)


async def test_a_shapeless_reply_has_no_choices() -> None:
    async with server_with(Fault.SHAPELESS) as server, aiohttp.ClientSession() as http:
        status, _, body = await send(server, http)
    assert status == 200
    assert "choices" not in orjson.loads(body)


@pytest.mark.parametrize(("fault", "reason"), [(Fault.EMPTY, "stop"), (Fault.FILTERED, "content_filter")])
async def test_empty_and_filtered_replies_say_nothing(fault: Fault, reason: str) -> None:
    async with server_with(fault) as server, aiohttp.ClientSession() as http:
        status, _, body = await send(server, http)
    choice = orjson.loads(body)["choices"][0]
    assert (status, choice["message"]["content"], choice["finish_reason"]) == (200, "", reason)


async def test_faults_can_be_kept_to_first_attempts() -> None:
    async with server_with(Fault.SERVER_ERROR, attempts=2) as server, aiohttp.ClientSession() as http:
        statuses = [(await send(server, http, seed))[0] for seed in (1, 2, 1, 2, 1, 2)]
    assert statuses == [500, 500, 500, 500, 200, 200]


async def test_faults_can_be_kept_to_some_models() -> None:
    plan = FaultPlan(rates={Fault.SERVER_ERROR: 1.0}, models=frozenset({"sim-prm"}))
    async with SimulationServer(WORLD, behaviour=Behaviour(faults=plan)) as server, aiohttp.ClientSession() as http:
        assert (await send(server, http))[0] == 200
        request = orjson.dumps(asking.score(TASK, 0, "print(1)"))
        async with http.post(f"{server.base_url}/chat/completions", data=request) as response:
            assert response.status == 500


async def test_the_same_run_meets_the_same_faults_in_any_order() -> None:
    rates = {Fault.SERVER_ERROR: 0.2, Fault.RATE_LIMIT: 0.2, Fault.EMPTY: 0.2}
    seen = []
    for seeds in (range(40), reversed(range(40))):
        plan = FaultPlan(rates=rates)
        async with (
            SimulationServer(WORLD, behaviour=Behaviour(faults=plan)) as server,
            aiohttp.ClientSession() as http,
        ):
            for seed in seeds:
                await send(server, http, seed)
                await send(server, http, seed)
        entries = server.record.entries
        seen.append({(entry.digest, entry.attempt): entry.fault for entry in entries})
    assert seen[0] == seen[1]
    assert {fault for fault in seen[0].values() if fault} == {"server-error", "rate-limit", "empty"}
    first = [seen[0][digest, 1] for digest, attempt in seen[0] if attempt == 1]
    assert first != [seen[0][digest, 2] for digest, attempt in seen[0] if attempt == 1]


async def test_rates_hold_over_many_requests() -> None:
    plan = FaultPlan(rates={Fault.STALL: 0.3, Fault.EMPTY: 0.1})
    chosen = [plan.choose(f"{number:x}", 1, "sim-policy") for number in range(4000)]
    assert 0.27 < chosen.count(Fault.STALL) / 4000 < 0.33
    assert 0.08 < chosen.count(Fault.EMPTY) / 4000 < 0.12


@pytest.mark.parametrize("rates", [{Fault.STALL: -0.1}, {Fault.STALL: 0.6, Fault.EMPTY: 0.6}])
def test_rates_that_are_no_probabilities_are_refused(rates: dict[Fault, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        FaultPlan(rates=rates)
