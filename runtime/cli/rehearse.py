"""`cso run --rehearse`: the pipeline on some of the user's tasks with simulated models, and what that foretells."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio

from runtime.cli.costs import money
from runtime.cli.ending import exit_code
from runtime.cli.output import say, write_data, write_json
from runtime.cli.report import heading
from runtime.cli.working import Worked, work_off
from runtime.config.settings import Settings
from runtime.rehearsal import Assumptions, Estimate, Forecast, forecast, rehearsal_settings
from runtime.simulation.process import simulated_models
from runtime.simulation.search import WorldSearch
from runtime.simulation.world import World
from store.formats.task_files import TaskRecord

_SIMULATED = (
    "The models of this rehearsal are simulated: a local server plays them, and your endpoints are not called. Their "
    "replies mean nothing; calls and prompts are those that your tasks and settings lead to."
)


def rehearse(
    settings: Settings, records: Sequence[TaskRecord], *, sample: int, failure_share: float, json: bool
) -> int:
    """Rehearse and tell what the full work will take; the exit code.

    Args:
        records: one or more.
        sample: how many tasks are rehearsed at most.
        failure_share: of the policy's trajectories that are assumed to fail, in [0, 1].
    """
    say(_SIMULATED)
    chosen = _sample(records, sample, settings.run.seed)
    with tempfile.TemporaryDirectory(prefix="cso-rehearsal-") as folder:
        # Code of the sandbox runs as another user and must be able to reach its workspace.
        Path(folder).chmod(0o711)
        worked = anyio.run(_work, settings, chosen, Path(folder))
    if worked.stopped_by is not None:
        return exit_code(worked)
    told = forecast(worked.summary, settings, tasks=len(records), failure_share=failure_share)
    if json:
        write_json(told.as_json())
    else:
        write_data("\n".join(_lines(told, settings.budget.currency)))
    return exit_code(worked)


def _sample(records: Sequence[TaskRecord], size: int, seed: int) -> list[TaskRecord]:
    """Some of the tasks in their order, the same ones each time."""
    picked = random.Random(seed).sample(range(len(records)), min(size, len(records)))  # noqa: S311 - no secret
    return [records[index] for index in sorted(picked)]


async def _work(settings: Settings, records: Sequence[TaskRecord], folder: Path) -> Worked:
    async with simulated_models(seed=1, tasks=1, latency=0.0) as url:
        simulated = rehearsal_settings(settings, url, folder / "data")
        # No environment: the variables that point to real endpoints must not be found.
        return await work_off(simulated, {}, records, search=WorldSearch(World.generate(1, 1)))


def _lines(told: Forecast, currency: str) -> Iterator[str]:
    based = told.assumptions
    yield heading(f"Estimate for {based.tasks} tasks, from {based.sample} of them rehearsed with SIMULATED models")
    yield f"  {'':<10}{'calls':>12}{'prompt tokens':>18}{'reply tokens':>16}   cost"
    for name, one in {**told.by_role, "total": told.total}.items():
        yield _line(name, one, currency)
    yield "by stage"
    for name, one in told.by_stage.items():
        yield _line(name, one, currency)
    yield ""
    yield heading("It assumes")
    yield from (f"  {line}" for line in _assumed(based))
    if told.unpriced:
        yield f"Costs are not complete: [prices] has none for {', '.join(told.unpriced)}."


def _assumed(based: Assumptions) -> Iterator[str]:
    yield f"{based.failure_share:.0%} of the policy's trajectories fail (set it with --failures)"
    several = "trajectory" if based.trajectories_per_task == 1 else "trajectories"
    yield f"{based.trajectories_per_task} {several} a task, of {based.steps_per_trajectory:.1f} steps"
    if 0 < based.steps_per_trajectory < based.most_steps:
        times = based.most_steps / based.steps_per_trajectory
        yield f"  (agent.max_steps allows {based.most_steps}, {times:.1f} times as many)"
    yield f"{based.critical_steps_per_failure:.1f} candidate critical steps a failure, as the simulated PRM scores"
    yield f"{based.branches_per_critical_step:.1f} branches a critical step; one that succeeds will spare others"
    for role, tokens in based.prompt_tokens_per_call.items():
        yield f"{role}: prompts of {tokens:,.0f} tokens, replies of {based.reply_tokens_per_call[role]:,.0f}"
    yield "tokens are a quarter of the characters; real models may write and see far more"


def _line(name: str, one: Estimate, currency: str) -> str:
    cost = "unknown" if one.cost is None else money(one.cost, currency)
    return f"  {name:<10}{one.calls:>12,.0f}{one.prompt_tokens:>18,.0f}{one.completion_tokens:>16,.0f}   {cost}"
