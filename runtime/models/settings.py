"""The settings of one endpoint, checked when they are made.

An endpoint sends what its settings say. Of the variables that the SDK reads from the environment for itself,
key, organisation and project are overruled here, so that a key of one provider never reaches another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from runtime.errors import ConfigError
from runtime.models.capabilities import Capabilities, Provider

PLACEHOLDER_KEY = "EMPTY"
"""Sent where no key is set: local servers want none, some gateways want the header all the same, and this is
the word that vLLM's documentation uses."""

COMPLETIONS_PATH = "/chat/completions"
ANTHROPIC_URL = "https://api.anthropic.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Where an endpoint is and how hard it may be driven.

    Times are in seconds: `timeout` bounds one attempt from connecting to the last byte, `deadline` the time in which
    the attempts of a call may begin, back-off and waiting for a slot included. `attempts` counts the first one.
    `max_in_flight` is a number, or "adaptive" to find the server's capacity, up to `ceiling`. `headers` go with every
    request and are, like the key, left out of reprs and cut out of errors.

    `provider` says which protocol the endpoint speaks. `api_version` is Azure's (empty: the versionless route) or
    Anthropic's (empty: the one that its SDK sends), `deployment` Azure's (empty: the model's name), `region` that of
    Bedrock. `base_url` may be empty for anthropic and bedrock, whose SDKs know where they are. `max_input_tokens`
    is what the messages may come to, 0 for whatever the endpoint takes.

    Raises ConfigError for values that cannot work.
    """

    name: str
    base_url: str
    provider: Provider = "openai"
    api_version: str = ""
    deployment: str = ""
    region: str = ""
    capabilities: Capabilities = field(default_factory=Capabilities)
    max_input_tokens: int = 0
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    timeout: float = 600.0
    connect_timeout: float = 10.0
    deadline: float = 1800.0
    attempts: int = 6
    backoff: float = 0.5
    backoff_max: float = 30.0
    max_in_flight: int | Literal["adaptive"] = "adaptive"
    ceiling: int = 512
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "base_url", provider_base_url(self.provider, self.base_url))
        except ConfigError as error:
            raise ConfigError(f"endpoint {self.name}: {error}") from None
        object.__setattr__(self, "api_key", (self.api_key or "").strip() or None)
        if self.api_key is not None and not _is_header_text(self.api_key):
            raise ConfigError(f"endpoint {self.name}: {self.key_place} holds characters that no key has")
        if self.provider == "azure" and self.api_version and not self.deployment:
            raise ConfigError(f"endpoint {self.name}: azure with api_version needs a deployment")
        positive = ("timeout", "connect_timeout", "deadline", "attempts", "backoff", "backoff_max", "ceiling")
        optional = ("requests_per_minute", "tokens_per_minute")
        values = {name: getattr(self, name) for name in (*positive, *optional)}
        if self.max_in_flight != "adaptive":
            values["max_in_flight"] = self.max_in_flight
        for name, value in values.items():
            if value is not None and not value > 0:
                raise ConfigError(f"endpoint {self.name}: {name} must be above 0, not {value}")
        for name, value in self.headers:
            if not _is_header_text(name) or not _is_header_text(value):
                raise ConfigError(f"endpoint {self.name}: header {name!a} cannot be sent as it is")

    @property
    def key_place(self) -> str:
        """Where the user sets the key, for messages."""
        return f"the environment variable {self.api_key_env}" if self.api_key_env else "api_key"

    @property
    def key_advice(self) -> str:
        """What to do about a key or an account that was refused."""
        if self.provider == "bedrock":
            return "check the AWS credentials and what the account may use"
        if self.api_key:
            return f"check {self.key_place}"
        if self.provider == "azure":
            return f"sign in to Entra ID, or set {self.key_place}"
        if self.api_key_env:
            return f"no key is set: set {self.key_place}"
        return f"no key is sent: put it into a variable and name that in models.{self.name}.api_key_env"

    @property
    def key_takes_effect(self) -> str:
        """What a process at work needs besides, to follow `key_advice`: keys are read at the start."""
        if self.provider in ("azure", "bedrock") and not self.api_key:
            return ""
        return " (another one takes a new start)" if self.api_key else ", start again"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must not leave the process other than in a request to this endpoint."""
        found = [value for _, value in self.headers if len(value) >= 8]
        return (self.api_key, *found) if self.api_key else tuple(found)


def provider_base_url(provider: Provider, url: str) -> str:
    """Bring a base URL to the form that the provider's SDK wants; empty stays empty where the SDK knows better.

    Raises ConfigError as `normalise_base_url` does.
    """
    if provider == "bedrock" and not url.strip():
        return ""
    base = normalise_base_url(url.strip() or (ANTHROPIC_URL if provider == "anthropic" else ""))
    if provider == "azure":
        return base.removesuffix("/v1").partition("/openai")[0]
    if provider == "anthropic":
        return base.removesuffix("/messages").removesuffix("/v1")
    if provider == "bedrock":
        return base.removesuffix("/v1")
    return base


def normalise_base_url(url: str) -> str:
    """Bring a base URL to the form `…/v1`: no trailing slash, no `/chat/completions`; a bare host gets `/v1`.

    Raises ConfigError for anything but an http(s) URL, and for user names, queries and fragments in it.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("base_url is not a URL") from None
    if "@" in parts.netloc:
        raise ConfigError("base_url holds a user name or password: set the key with api_key_env instead")
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"base_url must look like http://host:port/v1, not {text!r}")
    if parts.query or parts.fragment:
        raise ConfigError("base_url must end in a path such as /v1, without '?' or '#'")
    path = parts.path.rstrip("/").removesuffix(COMPLETIONS_PATH).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _is_header_text(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()
