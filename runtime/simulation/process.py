"""The simulated models in a process of their own, as real endpoints are: real HTTP, and a loop that is not ours."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import orjson

from runtime.errors import InfrastructureError

_START_DEADLINE_S = 30.0
_STOP_DEADLINE_S = 5.0


@contextlib.asynccontextmanager
async def simulated_models(
    *, seed: int, tasks: int, latency: float, jitter: float = 0.0, prm_noise: float = 0.0, record: Path | None = None
) -> AsyncIterator[str]:
    """Run the server while the block runs; its base URL, ending in /v1.

    Args:
        seed: of the world, as is the number of `tasks`.
        latency: seconds that a reply takes, give or take `jitter`.
        prm_noise: share of steps at which the PRM is wrong about the policy's action, in [0, 1].
        record: file to which every request is appended.

    Raises:
        InfrastructureError: the server did not start.
    """
    options: dict[str, int | float | Path] = {
        "--seed": seed,
        "--tasks": tasks,
        "--latency": latency,
        "--jitter": jitter,
        "--prm-noise": prm_noise,
    }
    if record is not None:
        options["--record"] = record
    words = [str(word) for option in options.items() for word in option]
    # It stops when our end of its standard input closes, which the kernel does however we die.
    process = await anyio.open_process(
        [sys.executable, "-m", "runtime.simulation.server", "--until-eof", "--no-keep", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        # A Ctrl-C is for us: the replies that we wait for must still arrive.
        start_new_session=True,
    )
    try:
        yield await _base_url(process)
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _base_url(process: anyio.abc.Process) -> str:
    assert process.stdout is not None  # we asked for a pipe
    line = b""
    with anyio.move_on_after(_START_DEADLINE_S), contextlib.suppress(anyio.EndOfStream):
        while not line.endswith(b"\n"):
            line += await process.stdout.receive()
    try:
        return str(orjson.loads(line)["base_url"])
    except (orjson.JSONDecodeError, KeyError) as error:
        raise InfrastructureError("the simulated models did not start; what they said stands above") from error


async def _end(process: anyio.abc.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with anyio.move_on_after(_STOP_DEADLINE_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()
