"""The model roles of a run: which of them it asks, where each is served, and how it is sampled, from the settings."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.config.endpoints import Endpoint as EndpointConfig
from runtime.config.fallbacks import find_fallbacks
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from runtime.models.capabilities import Capabilities, capabilities_of
from runtime.models.journal import Completions, Role
from runtime.models.settings import EndpointSettings

# Their SDKs know where they are.
_KNOWN_ADDRESSES = ("anthropic", "bedrock")


def replica_settings(settings: Settings, environ: Mapping[str, str]) -> dict[str, list[EndpointSettings]]:
    """Where each role that the run asks is served, by each of its replicas.

    Raises:
        ConfigError: it is not said where, or with which model, or what is said cannot be.
    """
    roles = _roles(settings)
    missing = [key for role, at in roles.items() for key in _missing(role, at)]
    if missing:
        hints = "".join(f" {notice}." for notice in find_fallbacks(settings.models, environ).notices)
        raise ConfigError(
            f"not set: {', '.join(missing)}. Say in config.toml where each model is served "
            f"(`cso init` writes one), or try `cso demo`, which needs no model.{hints}"
        )
    return {role: [_endpoint(role, at, url, environ) for url in at.urls] for role, at in roles.items()}


def make_roles(settings: Settings, served: Mapping[str, Completions]) -> dict[str, Role]:
    """The roles as the journal asks them, by what serves each."""
    return {name: _role(getattr(settings.models, name), endpoint) for name, endpoint in served.items()}


def _roles(settings: Settings) -> dict[str, EndpointConfig]:
    models = settings.models
    roles: dict[str, EndpointConfig] = {"policy": models.policy, "expert": models.expert, "prm": models.prm}
    if settings.judge.method == "model":
        roles["judge"] = models.judge
    if models.vision.model:
        roles["vision"] = models.vision
    return roles


def _missing(role: str, at: EndpointConfig) -> list[str]:
    keys = ("model",) if at.provider in _KNOWN_ADDRESSES else ("base_url", "model")
    return [f"models.{role}.{key}" for key in keys if not getattr(at, key)]


def _endpoint(role: str, at: EndpointConfig, url: str, environ: Mapping[str, str]) -> EndpointSettings:
    variable = at.key_variable
    return EndpointSettings(
        name=role,
        provider=at.provider,
        base_url=url,
        api_version=at.api_version,
        deployment=at.deployment or (at.model if at.provider == "azure" else ""),
        region=at.region,
        capabilities=_capabilities(role, at),
        max_input_tokens=at.max_input_tokens,
        api_key=environ.get(variable) if variable else None,
        api_key_env=variable or None,
        timeout=at.timeout,
        deadline=at.deadline,
        attempts=at.attempts,
        backoff=at.backoff,
        backoff_max=at.backoff_max,
        max_in_flight=at.max_in_flight if isinstance(at.max_in_flight, int) else "adaptive",
        requests_per_minute=at.requests_per_minute or None,
        tokens_per_minute=at.tokens_per_minute or None,
    )


def _capabilities(role: str, at: EndpointConfig) -> Capabilities:
    try:
        found = capabilities_of(at.model, provider=at.provider, api_version=at.api_version, declared=at.capabilities)
    except ConfigError as error:
        raise ConfigError(f"models.{role}.{error}") from None
    if role == "vision" and not found.images:
        raise ConfigError(
            f"models.vision.model: {at.model} is not known to take images; if it does, "
            "set models.vision.capabilities = { images = true }"
        )
    return found


def _role(at: EndpointConfig, endpoint: Completions) -> Role:
    return Role(
        endpoint=endpoint,
        model=at.model,
        temperature=at.temperature,
        top_p=at.top_p,
        max_tokens=at.max_tokens,
        send_seed=at.send_seed,
    )
