"""The simulated server as a program: `python -m runtime.simulation.server`.

Writes one JSON line with its addresses to standard output once it listens, and ends with status 0 on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from runtime.simulation.behaviour import Behaviour, changed
from runtime.simulation.faults import Fault
from runtime.simulation.server import SimulationServer
from runtime.simulation.standins import Habits
from runtime.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.simulation.server",
        description="The simulated models as a server that speaks the OpenAI protocol.",
    )
    parser.add_argument("--seed", type=int, default=1, help="the world's seed")
    parser.add_argument("--tasks", type=int, default=24, help="number of tasks")
    parser.add_argument("--shortest", type=int, default=4, help="fewest steps of a task")
    parser.add_argument("--longest", type=int, default=9, help="most steps of a task")
    parser.add_argument("--no-attachments", action="store_true", help="no task comes with a file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--record", type=Path, help="file to which every request is appended")
    parser.add_argument("--no-keep", action="store_true", help="do not keep requests in memory")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a reply takes")
    parser.add_argument("--jitter", type=float, default=0.0, help="seconds by which the latency varies either way")
    parser.add_argument("--capacity", type=int, help="most calls in flight, 429 beyond it")
    parser.add_argument("--prm-noise", type=float, default=0.0, help="share of steps that the PRM misjudges")
    parser.add_argument("--lucky", type=float, default=0.0, help="how often the policy is right by luck")
    parser.add_argument("--thinking", type=float, default=0.0, help="how often a reply has a <think> block")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=RATE", help=", ".join(Fault))
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input, a pipe, ends")
    return parser


def _behaviour(options: argparse.Namespace) -> Behaviour:
    rates = dict(text.partition("=")[::2] for text in options.fault)
    start = Behaviour(latency=options.latency, jitter=options.jitter, capacity=options.capacity)
    return changed(start, {"rates": rates})


def _server(options: argparse.Namespace) -> SimulationServer:
    """Make the server; raises ValueError for options that make no sense."""
    world = World.generate(
        options.seed,
        options.tasks,
        shortest=options.shortest,
        longest=options.longest,
        attachments=not options.no_attachments,
    )
    return SimulationServer(
        world,
        habits=Habits(prm_noise=options.prm_noise, lucky=options.lucky, thinking=options.thinking),
        behaviour=_behaviour(options),
        host=options.host,
        port=options.port,
        record=options.record,
        keep=not options.no_keep,
    )


async def _serve(server: SimulationServer, *, until_eof: bool) -> None:
    """Serve until a signal (or the end of standard input) says to stop."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    async with server:
        if until_eof:
            # Whoever started us holds the other end: however it dies, we do not outlive it.
            loop.add_reader(sys.stdin.fileno(), _drain, over)
        ready = {"base_url": server.base_url, "root_url": server.root_url, "tasks": len(server.world.tasks)}
        sys.stdout.write(orjson.dumps(ready).decode() + "\n")
        sys.stdout.flush()
        await over.wait()


def _drain(over: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        over.set()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server as a program."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        server = _server(options)
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(_serve(server, until_eof=options.until_eof))
