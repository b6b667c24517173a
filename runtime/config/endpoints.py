"""The `[models…]` sections: how each role's OpenAI-compatible endpoint is reached, sampled and limited.

Guarantees that a `base_url` is empty or an http(s) base without a trailing slash, without `/chat/completions`
and without anything that could be a key. Keys themselves are never settings: `api_key_env` names the
environment variable that holds one.
"""

import re
from typing import Annotated, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, model_validator

from runtime.config.fields import fixed, free
from runtime.config.section import Section, conflict

_COMPLETIONS = "/chat/completions"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


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


def _temperature(default: float) -> float:
    return fixed(default, "Sampling temperature; 0 makes replies as repeatable as the server allows.", ge=0, le=2)


class Endpoint(Section):
    """One role's endpoint; times in seconds."""

    base_url: Annotated[str, AfterValidator(normalise_base_url)] = free(
        "",
        "Where the endpoint is: a .../v1 base or a full .../v1/chat/completions URL; empty until you set it.",
        allowed="empty or an http(s) URL such as http://localhost:8000/v1",
    )
    model: str = fixed("", "Model name that is sent with each request.", allowed="a model name as text")
    api_key_env: Annotated[str, AfterValidator(variable_name)] = free(
        "OPENAI_API_KEY",
        "Environment variable that holds the key; empty sends none. Keys never go into this file.",
        allowed="the name of an environment variable, in capitals",
    )
    temperature: float = _temperature(0.2)
    top_p: float = fixed(0.95, "Nucleus sampling: the share of probability that is sampled from.", ge=0.01, le=1)
    max_tokens: int = fixed(4096, "Longest reply, in tokens.", ge=1, le=1_000_000)
    timeout: float = free(100.0, "Seconds that one attempt may take.", ge=0.1, le=3600)
    deadline: float = free(
        900.0, "Seconds that one call may take with all its attempts and the waits between them.", ge=0.1, le=86400
    )
    attempts: int = free(5, "Attempts before a call is given up as an infrastructure error.", ge=1, le=100)
    max_in_flight: int = free(32, "Requests open at the same time; keep within the server's limit.", ge=1, le=4096)
    send_seed: bool = fixed(True, "Send a seed with each request; off for servers that refuse the field.")

    @model_validator(mode="after")
    def _one_attempt_fits(self) -> Self:
        if self.timeout > self.deadline:
            raise conflict("timeout", "deadline", "must not be longer than")
        return self


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


class Models(Section):
    """Model endpoints, one for each role."""

    trace_headers: bool = free(True, "Send x-cso-... headers, so that a gateway can route, bill and trace by role.")
    policy: PolicyEndpoint = PolicyEndpoint()
    expert: ExpertEndpoint = ExpertEndpoint()
    prm: PrmEndpoint = PrmEndpoint()
    judge: JudgeEndpoint = JudgeEndpoint()
