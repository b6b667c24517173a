"""What a run will take, estimated from a rehearsal: a sample of its tasks worked through with simulated models.

Prompts, tasks, files and thresholds are the user's own; what models write is not. So what can be measured is how many
calls a trajectory, a failure and a critical step take and how long their prompts are, and what cannot is assumed, by
name. The stand-ins' scripts (`simulation/strangers.py`) are as long as those of the simulated world, and their expert
repeats itself little, so that an estimate is rather too high than too low.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.config.endpoints import Endpoint, Models
from runtime.config.money import Budget
from runtime.config.settings import Search, Settings
from store.jsontypes import JsonValue
from store.spending import Spent, Stage
from store.summary import Summary

RUN_NAME = "rehearsal"
_KEPT = ("temperature", "top_p", "max_tokens", "max_in_flight", "send_seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What an estimate rests on: the settings' own numbers, and means that were measured in the rehearsal.

    `failure_share` is in [0, 1]; `most_steps` is what a trajectory may take. None of the branches of a rehearsal
    succeeds, so none spares another. Lengths are mean tokens a call, by role.
    """

    failure_share: float
    tasks: int
    sample: int
    trajectories_per_task: int
    steps_per_trajectory: float
    most_steps: int
    critical_steps_per_failure: float
    branches_per_critical_step: float
    prompt_tokens_per_call: Mapping[str, float]
    reply_tokens_per_call: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one role, one stage or all of it will take. `cost` is None where a price is missing."""

    calls: float
    prompt_tokens: float
    completion_tokens: float
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The estimate for all tasks, with the assumptions under it and the models that have no price."""

    assumptions: Assumptions
    total: Estimate
    by_role: Mapping[str, Estimate]
    by_stage: Mapping[str, Estimate]
    unpriced: Sequence[str]

    def as_json(self) -> dict[str, JsonValue]:
        """The same as plain JSON values."""
        return {"simulated": True, **asdict(self)}


def rehearsal_settings(settings: Settings, url: str, data: Path) -> Settings:
    """The user's settings with every model simulated at `url`, without search and budget, in another folder."""
    models: dict[str, Endpoint] = {}
    prices = {}
    for role in ("policy", "expert", "prm", "judge"):
        at: Endpoint = getattr(settings.models, role)
        # Only what shapes a request is taken over, so that nothing leads to the user's own endpoints.
        kept = {name: getattr(at, name) for name in _KEPT}
        models[role] = type(at)(base_url=url, model=f"sim-{role}", api_key_env="", **kept)
        if at.model in settings.prices:
            prices[f"sim-{role}"] = settings.prices[at.model]
    return settings.model_copy(
        update={
            "run": settings.run.model_copy(update={"name": RUN_NAME, "data": data}),
            "models": Models.model_validate(models),
            "prices": prices,
            "budget": Budget(currency=settings.budget.currency),
            "search": Search(limit=settings.search.limit),
        }
    )


def forecast(rehearsed: Summary, settings: Settings, *, tasks: int, failure_share: float) -> Forecast:
    """Scale a rehearsal up to all tasks.

    Args:
        rehearsed: the run of the sample in numbers.
        settings: the user's own.
        tasks: how many there are in all.
        failure_share: of the policy's trajectories, in [0, 1].
    """
    trajectories = tasks * settings.run.trajectories
    done = rehearsed.trajectories.success + rehearsed.trajectories.failure
    failures, critical = rehearsed.trajectories.failure, rehearsed.critical_candidates
    per_failure = _ratio(critical, failures)
    scale: dict[Stage, float] = {
        "collect": _ratio(trajectories, done),
        "resample": _ratio(trajectories * failure_share, failures),
        "verify": _ratio(trajectories * failure_share * per_failure, critical),
    }
    spending = rehearsed.spending
    roles = sorted({one.role for one in spending})
    calls = {role: sum(one.calls for one in spending if one.role == role) for role in roles}
    return Forecast(
        assumptions=Assumptions(
            failure_share=failure_share,
            tasks=tasks,
            sample=rehearsed.tasks,
            trajectories_per_task=settings.run.trajectories,
            steps_per_trajectory=_ratio(rehearsed.failed_steps, failures),
            most_steps=settings.agent.max_steps,
            critical_steps_per_failure=per_failure,
            branches_per_critical_step=_ratio(rehearsed.branches.success + rehearsed.branches.failure, critical),
            prompt_tokens_per_call={
                role: _ratio(sum(one.prompt_tokens for one in spending if one.role == role), calls[role])
                for role in roles
            },
            reply_tokens_per_call={
                role: _ratio(sum(one.completion_tokens for one in spending if one.role == role), calls[role])
                for role in roles
            },
        ),
        total=_scaled(spending, scale),
        by_role={role: _scaled([one for one in spending if one.role == role], scale) for role in roles},
        by_stage={stage: _scaled([one for one in spending if one.stage == stage], scale) for stage in scale},
        unpriced=sorted({_model(settings, one.role) for one in spending if one.unpriced}),
    )


def _scaled(spending: Sequence[Spent], scale: Mapping[Stage, float]) -> Estimate:
    known = all(one.cost is not None and not one.unpriced for one in spending)
    return Estimate(
        calls=sum(one.calls * scale[one.stage] for one in spending),
        prompt_tokens=sum(one.prompt_tokens * scale[one.stage] for one in spending),
        completion_tokens=sum(one.completion_tokens * scale[one.stage] for one in spending),
        cost=sum((one.cost or 0.0) * scale[one.stage] for one in spending) if known else None,
    )


def _model(settings: Settings, role: str) -> str:
    return str(getattr(settings.models, role).model) or f"the {role}"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
