"""How fast model calls go through our endpoint, beside the bare SDK and bare aiohttp.

One server process answers every request after `--latency` seconds. The clients under test run one after the other
in this process, which is pinned to one core; the server has another. Prints calls a second and CPU milliseconds of
this process a call; `--json` prints one object on stdout instead.

    python benchmarks/client.py [--calls 4000] [--in-flight 256] [--prompt-bytes 20000] [--latency 0.1] [--json]
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import aiohttp
import anyio
import httpx2
import orjson
from aiohttp import web
from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient

from runtime.models.chat import ChatRequest
from runtime.models.endpoint import Endpoint
from runtime.models.settings import EndpointSettings
from store.messages import Message

Call = Callable[[], Awaitable[object]]

TARGET_CALLS_PER_SECOND = 800
HEADERS = {
    "x-cso-role": "policy",
    "x-cso-module": "action",
    "x-cso-run": "benchmark",
    "x-cso-task": "task-1",
    "x-cso-trajectory": "task-1/0",
    "x-cso-step": "3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What every client has to do."""

    calls: int
    in_flight: int
    prompt_bytes: int
    latency: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One client's result."""

    client: str
    calls_per_second: float
    cpu_ms_per_call: float


def make_request(prompt_bytes: int) -> ChatRequest:
    """A conversation in the shape of an agent's: a long system message, then turns of about 1.5 KB."""
    system = min(6000, prompt_bytes // 2)
    turns = max(1, (prompt_bytes - system) // 1500)
    size = (prompt_bytes - system) // turns
    texts = [("word " * (size // 5 + 1))[:size] for _ in range(turns)]
    messages = [Message("system", "s" * system)]
    messages += [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    return ChatRequest(model="m", messages=tuple(messages), temperature=0.2, top_p=0.95, max_tokens=4096, seed=7)


async def measure(client: str, call: Call, work: Workload) -> Figure:
    """Make the workload's calls, always `in_flight` of them at once, after a warm-up that opens the connections."""
    await _drive(call, work.in_flight, work.in_flight)
    started, cpu = time.perf_counter(), time.process_time()
    await _drive(call, work.calls, work.in_flight)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Figure(
        client=client,
        calls_per_second=round(work.calls / wall, 1),
        cpu_ms_per_call=round(1000 * cpu / work.calls, 3),
    )


async def _drive(call: Call, calls: int, in_flight: int) -> None:
    left = calls

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    async with anyio.create_task_group() as group:
        for _ in range(in_flight):
            group.start_soon(caller)


async def run_endpoint(url: str, work: Workload, *, adaptive: bool) -> Figure:
    """Our endpoint, digest included, as the journal uses it."""
    request = make_request(work.prompt_bytes)
    settings = EndpointSettings(
        name="benchmark",
        base_url=url,
        max_in_flight="adaptive" if adaptive else work.in_flight,
        ceiling=work.in_flight,
    )
    async with Endpoint(settings) as endpoint:

        async def call() -> None:
            request.digest()
            await endpoint.complete(request, headers=HEADERS)

        return await measure("Endpoint, adaptive from 8" if adaptive else "Endpoint", call, work)


async def run_sdk(url: str, work: Workload, *, use_aiohttp: bool) -> Figure:
    """The SDK as its documentation shows it."""
    fields = orjson.loads(make_request(work.prompt_bytes).body())
    limits = httpx2.Limits(max_connections=work.in_flight)
    http = DefaultAioHttpClient(limits=limits) if use_aiohttp else DefaultAsyncHttpxClient(limits=limits)
    async with AsyncOpenAI(api_key="EMPTY", base_url=url, max_retries=0, http_client=http) as client:

        async def call() -> None:
            await client.chat.completions.create(**fields, extra_headers=HEADERS)

        return await measure(f"openai create, {'aiohttp' if use_aiohttp else 'httpx'}", call, work)


async def run_aiohttp(url: str, work: Workload) -> Figure:
    """The least that a client can do: serialise, post, parse."""
    request = make_request(work.prompt_bytes)
    headers = {**HEADERS, "Authorization": "Bearer EMPTY", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=work.in_flight)) as session:

        async def call() -> None:
            async with session.post(f"{url}/chat/completions", data=request.body(), headers=headers) as response:
                orjson.loads(await response.read())

        return await measure("aiohttp + orjson", call, work)


async def run_clients(url: str, work: Workload) -> list[Figure]:
    """All clients, one after the other."""
    slow = Workload(**{**asdict(work), "calls": max(work.in_flight, work.calls // 4)})
    return [
        await run_aiohttp(url, work),
        await run_endpoint(url, work, adaptive=False),
        await run_endpoint(url, work, adaptive=True),
        await run_sdk(url, slow, use_aiohttp=True),
        await run_sdk(url, slow, use_aiohttp=False),
    ]


def serve(latency: float) -> None:
    """Be the server: print the port, answer until stdin closes."""
    body = orjson.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Thought: a line\n" * 90},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 5000, "completion_tokens": 300, "total_tokens": 5300},
        }
    )

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await anyio.sleep(latency)
        return web.Response(body=body, content_type="application/json", headers={"x-request-id": "r-1"})

    async def main() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        await runner.cleanup()

    anyio.run(main)


def pin(core: int) -> None:
    """Stay on one core, where the system can do that and has it."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def benchmark(work: Workload) -> list[Figure]:
    """Start the server, run the clients, stop the server."""
    command = [sys.executable, __file__, "--serve", "--latency", str(work.latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        pin(0)
        port = int(server.stdout.readline())
        try:
            return anyio.run(run_clients, f"http://127.0.0.1:{port}/v1", work)
        finally:
            server.stdin.close()


def report(figures: list[Figure], work: Workload, *, as_json: bool) -> None:
    """Print the result for people or for programs."""
    ideal = work.in_flight / work.latency if work.latency else math.inf
    ours = next(figure for figure in figures if figure.client == "Endpoint")
    if as_json:
        document = {
            "workload": asdict(work),
            "ideal_calls_per_second": ideal,
            "target_calls_per_second": TARGET_CALLS_PER_SECOND,
            "target_met": ours.calls_per_second >= TARGET_CALLS_PER_SECOND,
            "clients": [asdict(figure) for figure in figures],
        }
        print(orjson.dumps(document).decode())
        return
    print(f"{'client':26} {'calls/s':>9} {'CPU ms/call':>12}")
    for figure in figures:
        print(f"{figure.client:26} {figure.calls_per_second:9.0f} {figure.cpu_ms_per_call:12.2f}")
    print(f"{work.prompt_bytes} bytes of messages, {work.in_flight} in flight, {work.latency} s a reply;")
    print(f"ideal {ideal:.0f} calls/s, target {TARGET_CALLS_PER_SECOND} for Endpoint on one core")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--prompt-bytes", type=int, default=20_000)
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        pin(1)
        serve(options.latency)
        return
    work = Workload(
        calls=options.calls,
        in_flight=options.in_flight,
        prompt_bytes=options.prompt_bytes,
        latency=options.latency,
    )
    report(benchmark(work), work, as_json=options.json)


if __name__ == "__main__":
    main()
