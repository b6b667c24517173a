"""Fallbacks: the variables with which users of the published scripts have said where their models are served.

A role takes one only where nothing else says where it is served, and no value that differs from its default is
changed. What the variables hold is no error, since other programs use these names too: what cannot be used is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from runtime.config.endpoints import Endpoint, Models
from runtime.config.targets import (
    AZURE_ENDPOINT,
    Environ,
    UnusableTargetError,
    Values,
    azure,
    is_address,
    openai,
    read_target,
)

# The published scripts draw alternatives from the policy's own model.
TARGETS: Mapping[str, str] = {
    "policy": "LLM_URL",
    "expert": "LLM_URL",
    "prm": "RPM_MODEL_URL",
    "judge": "EVALUATOR_LLM",
    "vision": "VLM_URL",
}
"""The variable that holds the target of each role."""

_DEPLOYMENT = "AZURE_OPENAI_DEPLOYMENT"


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """What the variables say, by role, and sentences about what is not as it might be thought."""

    by_role: Mapping[str, Values]
    notices: Sequence[str]


def find_fallbacks(models: Models, environ: Environ) -> Fallbacks:
    """What the variables add to models of which the configuration does not say where they are served."""
    by_role: dict[str, Values] = {}
    notices: list[str] = []
    for role, variable in TARGETS.items():
        if role == "expert" and "policy" not in by_role:
            continue  # beside a policy from elsewhere it is an oversight, not the set-up of the published scripts
        try:
            found = _of_role(getattr(models, role), variable, environ)
        except UnusableTargetError as error:
            notices.append(str(error))
            continue
        if found:
            by_role[role] = found
    if "expert" in by_role and by_role["expert"].get("model", "its own") == by_role["policy"].get("model"):
        notices.append(f"{TARGETS['expert']} serves the expert as well; a model stronger than the policy finds more")
    notices += _name_deployment(models, by_role, environ)
    return Fallbacks(by_role, tuple(dict.fromkeys(notices)))


def _of_role(at: Endpoint, variable: str, environ: Environ) -> Values:
    """The values for one role that are not set otherwise; none where it is served somewhere already."""
    target = environ.get(variable, "").strip()
    found: Values = {}
    if at.base_url:
        return found
    if at.provider == "azure":
        found = azure(environ)
    elif at.provider == "openai" and target and (not at.model or is_address(target)):
        found = read_target(target, variable, environ)
    elif at.provider == "openai" and at.model:
        found = openai(environ)
    return {name: value for name, value in found.items() if _is_default(at, name.partition(".")[0])}


def _is_default(at: Endpoint, name: str) -> bool:
    return bool(getattr(at, name) == type(at).model_fields[name].default)


def _name_deployment(models: Models, by_role: Mapping[str, Values], environ: Environ) -> Iterator[str]:
    """Send Azure's roles to the deployment that is named, unless they are several models, which it cannot be."""
    deployment = environ.get(_DEPLOYMENT)
    at = {
        role: values.get("model", (getattr(models, role).model, ""))[0]
        for role, values in by_role.items()
        if values.get("base_url", ("", ""))[1] == AZURE_ENDPOINT and not getattr(models, role).deployment
    }
    if deployment and len(set(at.values())) == 1:
        for role in at:
            by_role[role]["deployment"] = (deployment, _DEPLOYMENT)
    elif deployment and at:
        yield f"{_DEPLOYMENT} is left alone: several models are asked at Azure, each at a deployment of its name"
