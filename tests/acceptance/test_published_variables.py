"""A user of the published scripts types `cso run` with nothing but the variables that are set already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World, write_tasks
from tests.acceptance.programs import cso

WORLD = World.generate(3, 2)


@asynccontextmanager
async def published(model: str, keys: set[str]) -> AsyncIterator[str]:
    """One model as vLLM serves it to the published scripts: called `ck`, and it notes the keys that it is sent."""
    async with SimulationServer(WORLD) as models, aiohttp.ClientSession() as session:

        async def forward(request: web.Request) -> web.Response:
            body = await request.json()
            assert body.pop("chat_template_kwargs") == {"enable_thinking": False}
            if body["model"] != "ck":
                return web.json_response({"error": {"message": f"no model {body['model']}"}}, status=404)
            keys.add(request.headers.get("Authorization", ""))
            # The expert is the policy's own model, and the simulated one answers only what it is asked to play.
            role = request.headers.get("x-cso-role", "")
            asked = {**body, "model": "sim-expert" if role == "expert" else model}
            async with session.post(f"{models.base_url}/chat/completions", json=asked) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
        finally:
            await runner.cleanup()


async def test_pairs_are_made_with_the_published_variables_alone_and_no_key_goes_astray(data: Path) -> None:
    keys: set[str] = set()
    config = data.parent / "empty.toml"
    config.touch()
    async with published("sim-policy", keys) as llm, published("sim-prm", keys) as rpm:
        environ = {
            "LLM_URL": llm,
            "RPM_MODEL_URL": rpm,
            "OPENAI_API_KEY": "sk-of-openai",
            "DATABRICKS_TOKEN": "dapi-x",
        }
        tasks = write_tasks(WORLD, data.parent / "tasks")
        ran = await cso("run", tasks, "--config", config, "--data", data, "--json", environ=environ)
    assert ran.status == 0, ran.said
    assert ran.json["pairs"] > 0
    assert keys == {"Bearer EMPTY"}
    assert "note: LLM_URL serves the expert as well" in ran.said
