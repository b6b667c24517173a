"""Keys stay where the user put them: nothing that a run leaves behind holds one, whatever servers answer."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World, write_tasks
from store.blobs import decode_blob
from store.database import FILE_NAME
from store.requests import decode_request
from tests.acceptance.programs import Ran, cso

KEY = "sk-Distinctive0key1that2nothing3else4holds"
VARIABLE = "CSO_TEST_KEY"
WORLD = World.generate(3, 2)
ROLES = ("policy", "expert", "prm")

# Says for a call, counted from 1, whether to answer it badly, and how.
Fault = Callable[[int, web.Request], web.Response | None]


def refused(_number: int, request: web.Request) -> web.Response | None:
    """The key is refused, and repeated in the reason."""
    return web.json_response({"error": {"message": f"no such key: {_sent(request)}"}}, status=401)


def echoed(number: int, request: web.Request) -> web.Response | None:
    """Every third call fails, with the request's headers in the answer, in one form or another."""
    sent = _sent(request)
    bodies = [
        web.json_response({"error": {"message": "failed", "headers": dict(request.headers)}}, status=500),
        web.Response(status=502, text=f"<html><body>{sent}</body></html>", content_type="text/html"),
        web.Response(status=200, text=f"upstream saw {sent} and then {{", headers={"x-request-id": "r-1"}),
        web.json_response({"error": {"message": f"bad request by {sent}"}}, status=400, headers={"x-seen": sent}),
        web.json_response({"detail": sent}, status=429, headers={"Retry-After": "0"}),
    ]
    return bodies[number // 3 % len(bodies)] if number % 3 == 0 else None


def _sent(request: web.Request) -> str:
    return request.headers.get("Authorization", "nothing")


@asynccontextmanager
async def front(fault: Fault) -> AsyncIterator[str]:
    """A gateway before simulated models that demand the key; it answers some calls itself. Its base URL."""
    numbers = iter(range(1, 1_000_000))
    async with SimulationServer(WORLD, api_key=KEY) as models, aiohttp.ClientSession() as session:

        async def forward(request: web.Request) -> web.Response:
            own = fault(next(numbers), request)
            if own is not None:
                return own
            kept = {name: value for name, value in request.headers.items() if name.lower() != "host"}
            url = f"{models.base_url}/chat/completions"
            async with session.post(url, data=await request.read(), headers=kept) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def write_configuration(folder: Path, url: str) -> Path:
    parts = [f'[run]\ndata = "{folder / "data"}"\n[bus]\nattempts = 2\ndelay = 0.01\n[log]\nlevel = "debug"\n']
    parts += [
        f'[models.{role}]\nbase_url = "{url}"\nmodel = "sim-{role}"\napi_key_env = "{VARIABLE}"\nattempts = 1\n'
        for role in ROLES
    ]
    path = folder / "config.toml"
    path.write_text("".join(parts))
    return path


async def everything(folder: Path, fault: Fault, *, key: str = KEY) -> tuple[list[Ran], Path]:
    """Run the method and every command that looks at what it left; what they said, and the data directory."""
    data = folder / "data"
    environ = {VARIABLE: key}
    tasks = write_tasks(WORLD, folder / "tasks")
    async with front(fault) as url:
        config = write_configuration(folder, url)
        ran = [await cso("run", tasks, "--config", config, environ=environ)]
        ran.append(await cso("doctor", "--config", config, "--data", data, environ=environ))
    looks = (("status",), ("status", "--json"), ("config", "--json"), ("tail", "-n", "0", "--json"))
    ran += [await cso(*words, "--config", config, environ=environ) for words in looks]
    ran.append(await cso("run", tasks, "--config", config, "--run", "other", environ={VARIABLE: f"{KEY}\x07"}))
    return ran, data


def contents(data: Path) -> list[tuple[str, bytes]]:
    """Every file of a data directory, and every value of its database in the form that people read."""
    found = [(str(path.relative_to(data)), path.read_bytes()) for path in data.rglob("*") if path.is_file()]
    with contextlib.closing(sqlite3.connect(data / FILE_NAME)) as connection:
        texts = {
            number: decode_blob(blob) for number, blob in connection.execute("SELECT id, data FROM blobs").fetchall()
        }
        found += [(f"blob {number}", text) for number, text in texts.items()]
        words = {number: text.decode("utf-8", errors="replace") for number, text in texts.items()}
        for number, request in connection.execute("SELECT id, request FROM calls").fetchall():
            asked = "\n".join(message.content for message in decode_request(request, words))
            found.append((f"request of call {number}", asked.encode()))
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - our own table's name
                values = (value if isinstance(value, bytes) else str(value).encode() for value in row)
                found.append((f"row of {table}", b"\0".join(values)))
    return found


@pytest.mark.parametrize(
    "fault", [echoed, refused, lambda _number, _request: None], ids=["echoed", "refused", "none"]
)
async def test_nothing_that_a_run_leaves_behind_holds_a_key(data: Path, fault: Fault) -> None:
    ran, data = await everything(data.parent, fault)
    left = contents(data)
    places = [f"stdout of command {number}" for number, one in enumerate(ran) if KEY in one.output]
    places += [f"stderr of command {number}" for number, one in enumerate(ran) if KEY in one.said]
    places += [place for place, content in left if KEY.encode() in content]
    assert places == []
    # Whoever looks for a key and finds none must have looked where it could be.
    assert ran[0].status == (0 if fault not in (echoed, refused) else 1)
    assert all(one.output or one.said for one in ran)
    if fault is echoed:
        assert any(
            b"[key]" in content or b"[redacted]" in content for place, content in left if "deliveries" in place
        )
    assert "holds characters that no key has" in ran[-1].said
