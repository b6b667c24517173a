"""The `[models…]` sections: how each role's endpoint is reached, sampled and limited.

Guarantees that a `base_url` is empty or an http(s) base without a trailing slash, without `/chat/completions`
and without anything that could be a key. Keys themselves are never settings: `api_key_env` names the
environment variable that holds one.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, PlainValidator, model_validator

from runtime.config.fields import fixed, free
from runtime.config.section import Section, conflict

_COMPLETIONS = "/chat/completions"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_MOST_IN_FLIGHT = 4096
# Where a provider's key is when the setting names the one of OpenAI, which must reach nobody else.
_KEY_VARIABLES: Mapping[str, str] = {
    "azure": "AZURE_OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
}
OPENAI_KEY = "OPENAI_API_KEY"
PROVIDERS_SECRETS = frozenset({*_KEY_VARIABLES.values(), "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})
"""Variables of keys that no setting names."""


def normalise_base_url(url: str) -> str:
    """Return the base of an endpoint, from a base or a full `…/chat/completions` URL; empty stays empty.

    Raises ValueError with a reason that does not repeat the URL, which might hold a secret.
    """
    text = url.strip()
    if not text:
        return ""
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError("it contains white space")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        # The library's own message quotes what it could not read, which may be a key.
        raise ValueError("its host or port is malformed") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("it does not start with http:// or https://")
    if not parts.hostname or port == 0:
        raise ValueError("it names no host, or port 0")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it contains a user or password; keys go into the variable named by api_key_env")
    if parts.query or parts.fragment:
        raise ValueError("it contains a query or fragment (? or #)")
    path = parts.path.rstrip("/").removesuffix(_COMPLETIONS).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc.lower(), path, "", ""))


def variable_name(name: str) -> str:
    """Return the name of an environment variable, or nothing; raises ValueError for what looks like a key."""
    # Upper case only: real keys have small letters, so a key pasted here by mistake is refused, never shown.
    if name and not _VARIABLE.fullmatch(name):
        raise ValueError("put the key into an environment variable and name that variable here")
    return name


def _addresses(value: object) -> str | list[str]:
    """One normalised URL, or a list of several different ones."""
    if isinstance(value, str):
        return normalise_base_url(value)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("it is neither text nor a list of texts")
    urls = [url for each in value if (url := normalise_base_url(each))]
    if len(set(urls)) < len(urls):
        raise ValueError("a replica is listed twice")
    return urls if len(urls) > 1 else "".join(urls)


def _window(value: object) -> int | str:
    """A number of requests or "adaptive"; environment variables hold numbers as text."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value == "adaptive":
        return "adaptive"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_IN_FLIGHT:
        raise ValueError("it is no such number")
    return value


def _temperature(default: float) -> float:
    return fixed(default, "Sampling temperature; 0 makes replies as repeatable as the server allows.", ge=0, le=2)


class Endpoint(Section):
    """One role's endpoint; times in seconds."""

    provider: Literal["openai", "azure", "anthropic", "bedrock"] = free(
        "openai", "Protocol of the endpoint; openai: and all that speak it."
    )
    base_url: Annotated[str | list[str], PlainValidator(_addresses)] = free(
        "",
        "Where it is, as http://host:8000/v1, or a list of replicas; may stay empty for anthropic and bedrock.",
        allowed="an http(s) URL such as http://localhost:8000/v1, a list of them, or empty",
    )
    model: str = fixed("", "Model name that is sent with each request.", allowed="a model name as text")
    api_key_env: Annotated[str, AfterValidator(variable_name)] = free(
        "OPENAI_API_KEY",
        "Environment variable of the key; empty sends none. Providers other than openai have their own for this one.",
        allowed="the name of an environment variable, in capitals",
    )
    api_version: str = fixed(
        "", "API version for azure and anthropic, where only 2023-06-01 takes temperature.", allowed="a version"
    )
    deployment: str = free("", "Deployment at azure; empty for one named as the model.", allowed="a name as text")
    region: str = free(
        "", "Region for bedrock; empty takes that of the AWS configuration.", allowed="a region as text"
    )
    temperature: float = _temperature(0.2)
    top_p: float = fixed(0.95, "Nucleus sampling: the share of probability that is sampled from.", ge=0.01, le=1)
    max_tokens: int = fixed(4096, "Longest reply, in tokens.", ge=1, le=1_000_000)
    max_input_tokens: int = free(
        0, "Most tokens of messages; longer ones are shortened, not sent. 0: the endpoint decides.", ge=0, le=10**8
    )
    timeout: float = free(100.0, "Seconds that one attempt may take.", ge=0.1, le=3600)
    deadline: float = free(
        900.0, "Seconds in which the attempts of one call may begin, waits between them included.", ge=0.1, le=86400
    )
    attempts: int = free(5, "Attempts before a call is given up as an infrastructure error.", ge=1, le=100)
    backoff: float = free(0.5, "Seconds before the first repeat, at most; doubles with each one.", ge=0.001, le=600)
    backoff_max: float = free(30.0, "Longest wait between two attempts, in seconds.", ge=0.001, le=3600)
    max_in_flight: Annotated[int | str, PlainValidator(_window)] = free(
        "adaptive",
        "Requests open at once; adaptive finds the limit.",
        allowed=f'"adaptive" or a whole number from 1 to {_MOST_IN_FLIGHT}',
    )
    requests_per_minute: float = free(
        0.0, "Requests in a minute, at most; 0 is what the endpoint reports, if it does.", ge=0, le=1e9
    )
    tokens_per_minute: float = free(
        0.0, "Tokens in a minute, replies included; 0 is what the endpoint reports, if it does.", ge=0, le=1e12
    )
    send_seed: bool = fixed(True, "Send a seed with each request; off for servers that refuse the field.")
    capabilities: dict[str, bool | str] = fixed(
        {},
        'What the model\'s name does not tell of it, such as { seed = false, system = "none" }.',
        allowed="a table of capability = value",
    )

    @model_validator(mode="after")
    def _one_attempt_fits(self) -> Self:
        if self.timeout > self.deadline:
            raise conflict("timeout", "deadline", "must not be longer than")
        if self.backoff > self.backoff_max:
            raise conflict("backoff", "backoff_max", "must not be longer than")
        return self

    @property
    def urls(self) -> list[str]:
        """The addresses of the replicas, one at least; empty where the provider's SDK is to know it."""
        return self.base_url if isinstance(self.base_url, list) else [self.base_url]

    @property
    def key_variable(self) -> str:
        """The environment variable that holds the key; empty for none."""
        if self.api_key_env == OPENAI_KEY:
            return _KEY_VARIABLES.get(self.provider, OPENAI_KEY)
        return self.api_key_env


class PolicyEndpoint(Endpoint):
    """The policy: the model that is to be improved, and that finishes every branch."""


class ExpertEndpoint(Endpoint):
    """The expert: proposes alternatives at steps where the policy's action scored low."""

    temperature: float = _temperature(0.8)


class PrmEndpoint(Endpoint):
    """The process reward model: scores candidates from 0 to 1."""

    temperature: float = _temperature(0.0)


class JudgeEndpoint(Endpoint):
    """The judge of answers; called only when judge.method is "model"."""

    temperature: float = _temperature(0.0)


class VisionEndpoint(Endpoint):
    """The model that looks at images; optional, left out as long as it has no model."""


class Models(Section):
    """Model endpoints, one for each role."""

    trace_headers: bool = free(True, "Send x-cso-... headers, so that a gateway can route, bill and trace by role.")
    policy: PolicyEndpoint = PolicyEndpoint()
    expert: ExpertEndpoint = ExpertEndpoint()
    prm: PrmEndpoint = PrmEndpoint()
    judge: JudgeEndpoint = JudgeEndpoint()
    vision: VisionEndpoint = VisionEndpoint()
