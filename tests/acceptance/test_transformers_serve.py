"""The whole method against the real `transformers serve`, with a tiny model that has learnt nothing.

It wants an environment of its own, named by TRANSFORMERS_PYTHON (an interpreter that has `transformers[serving]`
and torch); without it the test is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import anyio
import pytest

from runtime.models.checkup import check_endpoint
from runtime.models.settings import EndpointSettings
from runtime.simulation.world import World
from store.events import Event, StepScored, TrajectoryCompleted
from tests.acceptance.running import ROLES, records_of, settings_for, work

PYTHON = os.environ.get("TRANSFORMERS_PYTHON")
START_S = 240
RUN_S = 400
LIMITS: dict[str, object] = {
    "run.rollouts": 2,
    "agent.max_steps": 2,
    "resample.alternatives": 2,
    "resample.score_attempts": 2,
}
_ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="TRANSFORMERS_PYTHON names no interpreter that has transformers[serving]"
)


async def make_model(folder: Path) -> Path:
    """A model of random parameters whose tokenizer knows the prompts that it will see."""
    assert PYTHON is not None
    prompts = [path.read_text() for part in ("runtime", "handlers") for path in (_ROOT / part).rglob("*.txt")]
    examples = [
        {"system": text, "conversations": [], "chosen": {"value": ""}, "rejected": {"value": ""}} for text in prompts
    ]
    (folder / "texts.json").write_text(json.dumps(examples))
    maker = _ROOT / "tests" / "trainers" / "tiny_model.py"
    await anyio.run_process([PYTHON, str(maker), str(folder / "texts.json"), str(folder / "model")])
    return folder / "model"


@contextlib.asynccontextmanager
async def serving(model: Path) -> AsyncIterator[str]:
    """The server with one model loaded; its base URL, once it answers."""
    assert PYTHON is not None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    words = [str(Path(PYTHON).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    log = model.parent / "serve.log"
    with log.open("wb") as output:
        server = await anyio.open_process(
            [*words, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        with anyio.fail_after(START_S):
            while not await answers(f"http://127.0.0.1:{port}/health"):
                assert server.returncode is None, log.read_text()[-2000:]
                await anyio.sleep(0.2)  # another program's start is nothing that we are told of
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(20):
            with contextlib.suppress(ProcessLookupError):
                server.kill()
            await server.wait()


async def answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def test_garbage_of_a_real_server_ends_in_failure_and_never_in_an_error(data: Path) -> None:
    model = await make_model(data.parent)
    changes = dict(LIMITS)
    for role in ROLES:
        changes |= {f"models.{role}.model": str(model), f"models.{role}.max_tokens": 24}
        changes |= {f"models.{role}.timeout": 60.0, f"models.{role}.deadline": 120.0}
    events: list[Event] = []
    async with serving(model) as url:
        settings = EndpointSettings(name="policy", base_url=url, timeout=60.0)
        found = await check_endpoint(settings, model=str(model), send_seed=True)
        assert [(one.level, "reports tokens" in one.text) for one in found] == [("ok", True)]
        records = records_of(World.generate(2, 2), data)
        summary = await work(settings_for(url, data, changes), records, watchers=[events.append], deadline=RUN_S)
    ends = [event.outcome for event in events if isinstance(event, TrajectoryCompleted)]
    assert ends == ["failure"] * len(records)
    assert (summary.tasks_finished, summary.owed, summary.trajectories.error) == (len(records), 0, 0)
    # What cannot be read is no score, and what has no score is no evidence.
    assert summary.steps_unscored > 0
    assert [event for event in events if isinstance(event, StepScored) and event.critical] == []
    assert (summary.pairs, summary.branches.error) == (0, 0)
