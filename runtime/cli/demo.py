"""`cso demo`: the whole method on a generated task set, with simulated models behind a real server."""

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from runtime.cli.ending import exit_code
from runtime.cli.export import export_pairs
from runtime.cli.output import say, write_data, write_json
from runtime.cli.reading import read_all
from runtime.cli.report import pair_text, summary_json, summary_text
from runtime.cli.runs import one_run
from runtime.cli.working import Worked, work_off
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from runtime.eventlog import EVENTS_FILE
from runtime.simulation.process import simulated_models
from runtime.simulation.search import WorldSearch
from runtime.simulation.world import World, WorldScore, score_pairs, write_tasks
from store.database import FILE_NAME, Database, Reader
from store.errors import StoreError
from store.export import Pair, load_pairs
from store.formats import llamafactory
from store.jsontypes import JsonValue
from store.runs import list_runs

_LATENCY_S = 0.08
_JITTER_S = 0.04


def demo(
    data: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("cso-demo"),
    tasks: Annotated[int, typer.Option(min=1, max=10_000, help="Number of generated tasks.")] = 40,
    seed: Annotated[int, typer.Option(min=1, help="Seed of the generated tasks.")] = 7,
    prm_noise: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of steps at which the PRM is wrong about the policy.")
    ] = 0.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what an earlier demo left in the folder.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the whole method on a generated task set with simulated models.

    Everything but the models is real: HTTP, database, sandbox, files. Typed again after an interruption, the same
    command goes on where it stopped.
    """
    name = f"demo-{seed}" if prm_noise == 0 else f"demo-{seed}-noise-{prm_noise:g}"
    if fresh:
        anyio.run(_remove, data)
    say("The models of this demo are simulated: a local server plays policy, expert and PRM. The rest is real.")
    worked, world = anyio.run(_work, data, name, tasks, seed, prm_noise)
    if worked.stopped_by is not None:
        raise typer.Exit(exit_code(worked))
    dataset, log = data / "dataset" / llamafactory.FILE_NAME, data / EVENTS_FILE
    # A folder of the demos' own, which the last of them has.
    anyio.run(partial(export_pairs, data, name, data / "dataset", force=True))
    pairs = anyio.run(_pairs, data, name)
    score = score_pairs(world, [(pair.task, pair.step) for pair in pairs])
    if json:
        write_json({**summary_json(worked.summary, dataset=dataset), "world": _world_json(score)})
    else:
        if pairs:
            write_data(pair_text(pairs[0]))
        more = [_world_row(score)]
        write_data(summary_text(worked.summary, dataset=dataset, log=log, more=more, currency=_CURRENCY))
    raise typer.Exit(exit_code(worked))


async def _remove(data: Path) -> None:
    """Remove what demos made in a folder, and only that: it may be a folder with other things in it.

    Raises:
        ConfigError: its database holds more than demos, or is in use.
    """
    if not await anyio.Path(data / FILE_NAME).exists():
        return
    try:
        async with Database(data) as database:
            others = [run.name for run in await list_runs(database) if not run.name.startswith("demo-")]
    except StoreError as error:
        raise ConfigError(f"--fresh: {error}") from error
    if others:
        raise ConfigError(f"--fresh: {data} holds more than demos (runs {', '.join(others)}): choose another --data")
    await anyio.to_thread.run_sync(_remove_known, data)


def _remove_known(data: Path) -> None:
    for name in ("tasks", "dataset", "workspaces", "log"):
        shutil.rmtree(data / name, ignore_errors=True)
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", "requests.jsonl"):
        (data / name).unlink(missing_ok=True)


async def _work(data: Path, name: str, tasks: int, seed: int, prm_noise: float) -> tuple[Worked, World]:
    world = World.generate(seed, tasks)
    records, _ = read_all([await anyio.to_thread.run_sync(write_tasks, world, data / "tasks")], strict=True)
    record = data / "requests.jsonl"
    async with simulated_models(
        seed=seed, tasks=tasks, latency=_LATENCY_S, jitter=_JITTER_S, prm_noise=prm_noise, record=record
    ) as url:
        models = {role: {"base_url": url, "model": f"sim-{role}", "api_key_env": ""} for role in _ROLES}
        settings = Settings.model_validate(
            {
                "run": {"name": name, "data": data, "rollouts": 16},
                "models": models,
                "prices": _PRICES,
                "budget": {"currency": _CURRENCY},
            }
        )
        return await work_off(settings, {}, records, search=WorldSearch(world)), world


_ROLES = ("policy", "expert", "prm")
# Nothing is paid here; with prices like those of real models one sees what would be.
_PRICES = {
    "sim-policy": {"prompt": 0.2, "completion": 0.6},
    "sim-expert": {"prompt": 2.0, "completion": 8.0, "cached": 0.5},
    "sim-prm": {"prompt": 0.4, "completion": 1.6},
}
_CURRENCY = "pretend USD"


async def _pairs(data: Path, name: str) -> list[Pair]:
    async with Reader(data) as reader:
        return [pair async for pair in load_pairs(reader, await one_run(reader, name))]


def _world_json(score: WorldScore) -> dict[str, JsonValue]:
    return {"critical": score.critical, "precision": score.precision, "recall": score.recall}


def _world_row(score: WorldScore) -> tuple[str, str]:
    """How the verified steps compare with the truth, which only a simulated world knows."""
    precision, recall = ("–" if value is None else f"{value:.2f}" for value in (score.precision, score.recall))
    return (
        "truly critical steps",
        f"{score.critical}, and of the verified steps: precision {precision}, recall {recall}",
    )
