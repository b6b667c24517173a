"""The server over real HTTP: protocol, record, capacity, latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import orjson
import pytest

from runtime.simulation.behaviour import Behaviour, reply_seconds
from runtime.simulation.server import SimulationServer
from runtime.simulation.standins import Standins
from runtime.simulation.world import World
from tests.simulation import asking

if TYPE_CHECKING:
    from pathlib import Path

WORLD = World.generate(1, 12)
TASK = WORLD.tasks[0]
REQUEST = asking.action(TASK, 0)


async def post(
    http: aiohttp.ClientSession, server: SimulationServer, body: Any, **headers: str
) -> tuple[int, dict[str, Any], Any]:
    """Send a completion request; return status, headers and the JSON of the reply."""
    url = f"{server.base_url}/chat/completions"
    async with http.post(url, data=orjson.dumps(body), headers=headers) as response:
        return (
            response.status,
            {name.lower(): value for name, value in response.headers.items()},
            orjson.loads(await response.read()),
        )


async def get_lines(http: aiohttp.ClientSession, server: SimulationServer) -> list[Any]:
    """The record as objects."""
    async with http.get(f"{server.root_url}/sim/record") as response:
        return [orjson.loads(line) for line in (await response.read()).splitlines()]


async def stats(http: aiohttp.ClientSession, server: SimulationServer) -> Any:
    """The counts."""
    async with http.get(f"{server.root_url}/sim/stats") as response:
        return orjson.loads(await response.read())


async def set_faults(http: aiohttp.ClientSession, server: SimulationServer, settings: object) -> tuple[int, Any]:
    """Change how the server behaves."""
    async with http.post(f"{server.root_url}/sim/faults", data=orjson.dumps(settings)) as response:
        return response.status, orjson.loads(await response.read())


async def test_a_completion_has_the_form_of_the_protocol() -> None:
    async with SimulationServer(WORLD) as server, aiohttp.ClientSession() as http:
        status, headers, reply = await post(http, server, REQUEST)
    assert status == 200
    assert headers["x-request-id"].startswith("req-")
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "sim-policy"
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": Standins(WORLD).reply(REQUEST)}
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = reply["usage"]
    assert usage["prompt_tokens"] > len(TASK.question) // 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


async def test_each_model_is_answered_by_its_stand_in() -> None:
    requests = [
        REQUEST,
        asking.action(TASK, 0, model="sim-expert"),
        asking.score(TASK, 0, TASK.steps[0].policy.code),
        asking.judgement("?", "1", "1"),
    ]
    async with SimulationServer(WORLD) as server, aiohttp.ClientSession() as http:
        for request in requests:
            _, _, reply = await post(http, server, request)
            assert reply["choices"][0]["message"]["content"] == Standins(WORLD).reply(request)
        async with http.get(f"{server.base_url}/models") as response:
            listed = orjson.loads(await response.read())
    assert [model["id"] for model in listed["data"]] == [request["model"] for request in requests]


async def test_bad_requests_are_refused_in_the_form_of_the_protocol() -> None:
    async with SimulationServer(WORLD) as server, aiohttp.ClientSession() as http:
        unknown = await post(http, server, {**REQUEST, "model": "gpt-9"})
        empty = await post(http, server, {"model": "sim-policy", "messages": []})
        async with http.post(f"{server.base_url}/chat/completions", data=b"{nonsense") as response:
            garbage = response.status, orjson.loads(await response.read())
        recorded = await get_lines(http, server)
    assert (unknown[0], unknown[2]["error"]["code"]) == (404, "model_not_found")
    assert (empty[0], empty[2]["error"]["type"]) == (400, "invalid_request_error")
    assert (garbage[0], garbage[1]["error"]["type"]) == (400, "invalid_request_error")
    assert [line["status"] for line in recorded] == [404, 400, 400]
    assert recorded[2]["body"] is None


async def test_the_record_tells_of_every_request_in_order() -> None:
    async with SimulationServer(WORLD) as server, aiohttp.ClientSession() as http:
        for index in (0, 1, 0):
            traces = {"x-cso-role": "policy", "x-cso-step": str(index), "authorization": "Bearer secret"}
            await post(http, server, asking.action(TASK, index), **traces)
        recorded = await get_lines(http, server)
        counts = await stats(http, server)
    assert [line["number"] for line in recorded] == [0, 1, 2]
    assert [line["headers"] for line in recorded] == [{"role": "policy", "step": str(step)} for step in (0, 1, 0)]
    assert [line["body"] for line in recorded] == [asking.action(TASK, index) for index in (0, 1, 0)]
    assert [line["attempt"] for line in recorded] == [1, 1, 2]
    assert recorded[0]["digest"] == recorded[2]["digest"] != recorded[1]["digest"]
    assert all(line["status"] == 200 and line["started"] <= line["ended"] for line in recorded)
    assert counts["calls"] == {"all": 3, "policy": 3}
    assert counts["in_flight"]["all"] == 0
    assert "secret" not in str(recorded)


async def test_calls_in_flight_are_counted_by_role() -> None:
    async with SimulationServer(WORLD, behaviour=Behaviour(latency=60)) as server, aiohttp.ClientSession() as http:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(post, http, server, asking.action(TASK, 0, seed=number))
            group.start_soon(post, http, server, asking.judgement("?", "1", "1"))
            await in_flight(server, 4)
            counts = await stats(http, server)
            group.cancel_scope.cancel()
        await in_flight(server, 0)
        recorded = await get_lines(http, server)
    assert counts["in_flight"] == counts["max_in_flight"] == {"all": 4, "policy": 3, "judge": 1}
    assert [line["status"] for line in recorded] == [499] * 4


async def in_flight(server: SimulationServer, count: int) -> None:
    """Wait until that many calls are in flight, at most 10 s."""
    with anyio.fail_after(10):
        await server.until(lambda traffic: traffic.in_flight[""] == count)


async def test_beyond_its_capacity_the_server_refuses_and_it_can_change_while_running() -> None:
    behaviour = Behaviour(latency=60, capacity=2)
    async with (
        SimulationServer(WORLD, behaviour=behaviour) as server,
        aiohttp.ClientSession() as http,
        anyio.create_task_group() as group,
    ):
        group.start_soon(post, http, server, asking.action(TASK, 0, seed=1))
        group.start_soon(post, http, server, asking.action(TASK, 0, seed=2))
        await in_flight(server, 2)
        status, _, refusal = await post(http, server, asking.action(TASK, 0, seed=3))
        assert (status, refusal["error"]["code"]) == (429, "rate_limit_exceeded")
        assert (await set_faults(http, server, {"capacity": 3, "latency": 0}))[0] == 200
        assert (await post(http, server, asking.action(TASK, 0, seed=4)))[0] == 200
        group.cancel_scope.cancel()


async def test_latency_hangs_on_the_content() -> None:
    behaviour = Behaviour(latency=0.05, jitter=0.04)
    async with SimulationServer(WORLD, behaviour=behaviour) as server, aiohttp.ClientSession() as http:
        for seed in (*range(8), *range(8)):
            await post(http, server, asking.action(TASK, 0, seed=seed))
    wanted = [reply_seconds(behaviour, entry.digest) for entry in server.record.entries]
    assert wanted[:8] == wanted[8:]
    assert len(set(wanted)) == 8
    assert all(0.01 <= seconds <= 0.09 for seconds in wanted)
    for entry, seconds in zip(server.record.entries, wanted, strict=True):
        assert entry.ended is not None
        # A timer may fire a clock tick early.
        assert entry.ended - entry.started > seconds - 0.001


async def test_prompts_beyond_the_context_are_refused() -> None:
    behaviour = Behaviour(context_tokens=20)
    async with SimulationServer(WORLD, behaviour=behaviour) as server, aiohttp.ClientSession() as http:
        status, _, refusal = await post(http, server, REQUEST)
    assert (status, refusal["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_key_is_wanted_where_one_is_set() -> None:
    async with SimulationServer(WORLD, api_key="k-1") as server, aiohttp.ClientSession() as http:
        without = await post(http, server, REQUEST)
        wrong = await post(http, server, REQUEST, Authorization="Bearer k-2")
        right = await post(http, server, REQUEST, Authorization="Bearer k-1")
    assert [status for status, *_ in (without, wrong, right)] == [401, 401, 200]


async def test_unknown_settings_are_refused_and_change_nothing() -> None:
    async with SimulationServer(WORLD) as server, aiohttp.ClientSession() as http:
        before = server.behaviour
        for settings in ({"speed": 1}, {"rates": {"earthquake": 1}}, {"rates": {"stall": 2}}, [1], "fast"):
            assert (await set_faults(http, server, settings))[0] == 400
        assert server.behaviour == before
        status, now = await set_faults(http, server, {"rates": {"stall": 0.5}, "models": ["sim-prm"], "latency": 0.1})
        async with http.get(f"{server.root_url}/sim/faults") as response:
            assert orjson.loads(await response.read()) == now
    assert status == 200
    assert (now["rates"], now["models"], now["latency"]) == ({"stall": 0.5}, ["sim-prm"], 0.1)


async def test_the_record_file_goes_on_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    for seed in (1, 2):
        async with SimulationServer(WORLD, record=path, keep=False) as server, aiohttp.ClientSession() as http:
            await post(http, server, asking.action(TASK, 0, seed=seed))
            assert await get_lines(http, server) == []
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["body"]["seed"] for line in lines] == [1, 2]


async def test_without_listening_there_is_no_address() -> None:
    with pytest.raises(RuntimeError, match="does not listen"):
        _ = SimulationServer(WORLD).base_url
