"""Asking an endpoint one tiny question, and telling how it went; `diagnosis` says what is wrong where it did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runtime.errors import ConfigError
from runtime.models.chat import ChatReply, ChatRequest
from runtime.models.diagnosis import explain
from runtime.models.endpoint import Endpoint
from runtime.models.errors import ModelError
from runtime.models.findings import EndpointFinding, bad, found, warn
from runtime.models.pictures import white_square
from runtime.models.served import listed, served_models
from runtime.models.settings import EndpointSettings
from runtime.models.transport import MissingExtraError
from store.messages import Message

PATIENCE_S = 60.0
_QUESTION = (Message("user", "Reply with the word OK."),)
# No smaller: some models refuse images of a few pixels.
_SIGHT = (Message("user", "Reply with the word OK if you see a white square.", images=(white_square(64),)),)
# Enough for models that think before they speak to say something.
_REPLY_TOKENS = 64


async def check_endpoint(settings: EndpointSettings, *, model: str, send_seed: bool) -> list[EndpointFinding]:
    """Call an endpoint once, twice where it does not take a seed. What is found, one finding or a few.

    Args:
        settings: of the endpoint; its name is what findings are called.
        model: as it is sent with requests.
        send_seed: whether requests carry a seed.
    """
    patient = replace(
        settings, attempts=1, timeout=min(settings.timeout, PATIENCE_S), deadline=min(settings.deadline, PATIENCE_S)
    )
    try:
        async with Endpoint(patient) as endpoint:
            return await _examine(endpoint, patient, model, send_seed=send_seed)
    except MissingExtraError as error:
        return [bad(settings, error.need, error.command)]
    except ConfigError as error:
        return [bad(settings, str(error).removeprefix(f"endpoint {settings.name}: "), "correct that setting")]


async def _examine(
    endpoint: Endpoint, settings: EndpointSettings, model: str, *, send_seed: bool
) -> list[EndpointFinding]:
    served = await served_models(settings)
    with_seed = send_seed and settings.capabilities.seed
    refusal: ModelError | None = None
    try:
        reply = await _ask(endpoint, model, seed=1 if with_seed else None)
    except ModelError as error:
        refusal = error
    if refusal is not None and with_seed and refusal.status in (400, 422):
        try:
            reply = await _ask(endpoint, model, seed=None)
        except ModelError:
            return [await explain(refusal, settings, model, served)]
        step = f"set send_seed = false for {settings.name}: repeats of a call will then differ"
        return [*_praise(settings, model, reply, served, seed=None), warn(settings, "it refuses a seed", step)]
    if refusal is not None:
        return [await explain(refusal, settings, model, served)]
    return _praise(settings, model, reply, served, seed=with_seed)


async def _ask(endpoint: Endpoint, model: str, *, seed: int | None) -> ChatReply:
    question = _SIGHT if endpoint.settings.name == "vision" else _QUESTION
    request = ChatRequest(model=model, messages=question, max_tokens=_REPLY_TOKENS, seed=seed)
    return await endpoint.complete(request, headers={"x-cso-role": endpoint.settings.name, "x-cso-module": "doctor"})


def _praise(
    settings: EndpointSettings, model: str, reply: ChatReply, served: Sequence[str] | None, *, seed: bool | None
) -> list[EndpointFinding]:
    """What to say of an endpoint that has replied; `seed` tells whether one was accepted, None if it was refused."""
    usage = reply.usage
    parts = [f"{model} replied in {reply.latency:.2f} s"]
    if usage.prompt:
        parts.append(f"reports tokens ({usage.prompt} + {usage.completion}, {usage.cached} cached)")
    parts += ["takes an image"] if settings.name == "vision" else []
    parts += ["accepts a seed"] if seed else []
    parts.append(_takes(settings) + (", no seed" if seed is False else ""))
    if served is not None:
        parts.append(f"serves {listed(served)}")
    praise = found(settings, "ok", "; ".join(parts))
    findings = [replace(praise, model=model, latency=round(reply.latency, 3), capabilities=settings.capabilities)]
    if not usage.prompt:
        step = "have the server report usage; until then tokens and costs of its calls are not known, nor capped"
        findings.append(warn(settings, "it does not say how many tokens a call took", step))
    return findings


def _takes(settings: EndpointSettings) -> str:
    """Whose key goes along, and the capabilities that requests are fitted to, in a few words."""
    able = settings.capabilities
    sampling = {"both": "temperature and top_p", "temperature": "temperature", "none": "no sampling parameters"}
    system = "no system role" if able.system == "none" else f"{able.system} role"
    thinking = "" if able.thinking else ", no thinking"
    return f"is sent {_credential(settings)}{able.limit_name}, {sampling[able.sampling]}, {system}{thinking}"


def _credential(settings: EndpointSettings) -> str:
    if settings.provider == "bedrock":
        return ""
    if settings.api_key:
        return f"the key in {settings.api_key_env or 'api_key'}, "
    return "a token of Entra ID, " if settings.provider == "azure" else "no key, "
