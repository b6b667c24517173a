"""How the simulated server behaves beyond what it answers: speed, capacity and faults, changeable while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from runtime.simulation.faults import Fault, FaultPlan


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What may change while the server runs.

    A reply takes `latency` seconds, give or take `jitter`, by its content. With `capacity`, calls beyond that many in
    flight are refused with 429. `context_tokens` refuses longer prompts with 400.
    """

    latency: float = 0.0
    jitter: float = 0.0
    capacity: int | None = None
    context_tokens: int | None = None
    faults: FaultPlan = field(default_factory=FaultPlan)


def reply_seconds(behaviour: Behaviour, digest: str) -> float:
    """Return how long the reply to a content takes, in seconds, from 0 up."""
    place = int(digest[:8], 16) / 2**32
    return max(0.0, behaviour.latency + behaviour.jitter * (2 * place - 1))


def behaviour_settings(behaviour: Behaviour) -> dict[str, object]:
    """Return a behaviour in the form that `changed` takes."""
    plan = behaviour.faults
    return {
        "latency": behaviour.latency,
        "jitter": behaviour.jitter,
        "capacity": behaviour.capacity,
        "context_tokens": behaviour.context_tokens,
        "rates": {fault.value: rate for fault, rate in plan.rates.items()},
        "models": sorted(plan.models),
        "attempts": plan.attempts,
        "retry_after": plan.retry_after,
        "drip": plan.drip,
        "stall": plan.stall,
    }


def changed(behaviour: Behaviour, settings: Any) -> Behaviour:
    """Return the behaviour with some settings changed; `rates` replaces all rates.

    Raises ValueError or TypeError for names and values that do not exist.
    """
    given = dict(settings)
    own = {name: given.pop(name) for name in ("latency", "jitter", "capacity", "context_tokens") if name in given}
    if "rates" in given:
        given["rates"] = {Fault(name): float(rate) for name, rate in given["rates"].items()}
    if "models" in given:
        given["models"] = frozenset(given["models"])
    return replace(behaviour, **own, faults=replace(behaviour.faults, **given))
