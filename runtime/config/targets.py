"""What the targets of the published scripts mean: `gpt:MODEL`, `claude:MODEL`, `azure_claude:MODEL` and `http…`.

A key goes only to whom it belongs: OPENAI_API_KEY to OpenAI or to OPENAI_ENDPOINT, never to the address of a target.
No text of an error repeats a value, since an address may hold a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from runtime.config.endpoints import OPENAI_KEY, normalise_base_url
from store.jsontypes import JsonValue

AZURE_ENDPOINT = "AZURE_OPENAI_ENDPOINT"
_OPENAI_ENDPOINT = "OPENAI_ENDPOINT"
_OPENAI_HOST = "api.openai.com"
_OPENAI_URL = f"https://{_OPENAI_HOST}/v1"
_SERVED_NAME = "ck"
_BEDROCK_MODEL = "us.anthropic.claude-3-7-sonnet-20250219-v1:0"
_BEDROCK_REGION = "us-west-2"
_AWS = ("AWS_MODEL_ID", "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK")

Environ = Mapping[str, str]
Values = dict[str, tuple[JsonValue, str]]
"""Settings of one role by name, `capabilities.NAME` among them, each with the variable that it came from."""


class UnusableTargetError(Exception):
    """Raised when a variable does not say where a model is served; names the variable and the reason."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}")


def read_target(target: str, variable: str, environ: Environ) -> Values:
    """The settings that a target stands for, `variable` being where it came from. Raises UnusableTargetError."""
    if is_address(target):
        return _address(target, variable)
    kind, _, model = target.partition(":")
    if kind in ("manual", "fake"):
        reason = f'"{kind}" is no model: name one as in http://localhost:8000/v1/chat/completions'
        raise UnusableTargetError(variable, reason)
    read = _READERS.get(kind)
    if read is None:
        raise UnusableTargetError(variable, "it is none of http…, gpt:MODEL, claude:MODEL and azure_claude:MODEL")
    if not model.strip():
        raise UnusableTargetError(variable, f"it names no model after {kind}:")
    return read(model.strip(), variable, environ)


def is_address(target: str) -> bool:
    """Whether a target is the address of a server, which does not say what the model is called."""
    return target.startswith(("http://", "https://"))


def azure(environ: Environ) -> Values:
    """Where Azure's variables say that a resource is; nothing without an endpoint. Raises UnusableTargetError."""
    if not environ.get(AZURE_ENDPOINT):
        return {}
    found: Values = {"base_url": (_base_url(environ[AZURE_ENDPOINT], AZURE_ENDPOINT), AZURE_ENDPOINT)}
    if version := environ.get("AZURE_OPENAI_API_VERSION"):
        found["api_version"] = (version, "AZURE_OPENAI_API_VERSION")
    return found


def openai(environ: Environ) -> Values:
    """Where OPENAI_ENDPOINT is; a bare host is taken for a resource of Azure's. Raises UnusableTargetError."""
    if not environ.get(_OPENAI_ENDPOINT):
        return {}
    url = _base_url(environ[_OPENAI_ENDPOINT], _OPENAI_ENDPOINT)
    parts = urlsplit(url)
    if not parts.path:
        url += "/v1" if parts.hostname == _OPENAI_HOST else "/openai/v1"
    return {"base_url": (url, _OPENAI_ENDPOINT)}


def _address(target: str, variable: str) -> Values:
    """A server of one's own, mostly vLLM: it wants no key, and its model has a fixed name and is not to think."""
    found: Values = {"base_url": (_base_url(target, variable), variable), "model": (_SERVED_NAME, variable)}
    if urlsplit(target).hostname != _OPENAI_HOST:
        found |= {"api_key_env": ("", variable), "capabilities.thinking": (False, variable)}
    return found


def _gpt(model: str, variable: str, environ: Environ) -> Values:
    """Azure where its key is set, or nothing but its address; else what OPENAI_ENDPOINT names, or OpenAI."""
    named: Values = {"model": (model, variable)}
    has_openai = environ.get(OPENAI_KEY) or environ.get(_OPENAI_ENDPOINT)
    is_azure = environ.get("AZURE_OPENAI_API_KEY") or (environ.get(AZURE_ENDPOINT) and not has_openai)
    if is_azure and "databricks" not in model.lower():
        if found := azure(environ):
            return named | {"provider": ("azure", AZURE_ENDPOINT)} | found
        reason = f"with AZURE_OPENAI_API_KEY set it means Azure, but {AZURE_ENDPOINT} is not set"
        raise UnusableTargetError(variable, reason)
    return named | (openai(environ) or {"base_url": (_OPENAI_URL, variable)})


def _claude(model: str, variable: str, environ: Environ) -> Values:
    """Bedrock; Anthropic itself where its key is all that there is."""
    if environ.get("ANTHROPIC_API_KEY") and not any(environ.get(name) for name in _AWS):
        return {"provider": ("anthropic", "ANTHROPIC_API_KEY"), "model": (model, variable)}
    named = environ.get("AWS_MODEL_ID")
    found: Values = {
        "provider": ("bedrock", variable),
        "model": (named, "AWS_MODEL_ID") if named else (_BEDROCK_MODEL, variable),
    }
    if region := environ.get("AWS_REGION_NAME"):
        found["region"] = (region, "AWS_REGION_NAME")
    elif not any(environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")):
        found["region"] = (_BEDROCK_REGION, variable)
    return found


def _databricks(model: str, variable: str, environ: Environ) -> Values:
    """A serving endpoint of Databricks, which takes no seed."""
    name = next((name for name in ("DATABRICKS_BASE_URL", "DATABRICKS_HOST") if environ.get(name)), None)
    if name is None:
        reason = "it means Databricks, but neither DATABRICKS_BASE_URL nor DATABRICKS_HOST is set"
        raise UnusableTargetError(variable, reason)
    url = environ[name]
    if name == "DATABRICKS_HOST":
        url = f"{url if is_address(url) else f'https://{url}'}".rstrip("/") + "/serving-endpoints"
    return {
        "base_url": (_base_url(url, name), name),
        "model": (model, variable),
        "api_key_env": ("DATABRICKS_TOKEN", name),
        "send_seed": (False, name),
    }


_READERS: Mapping[str, Callable[[str, str, Environ], Values]] = {
    "gpt": _gpt,
    "claude": _claude,
    "azure_claude": _databricks,
}


def _base_url(url: str, variable: str) -> str:
    try:
        return normalise_base_url(url)
    except ValueError as error:
        raise UnusableTargetError(variable, f"as an address it cannot be used: {error}") from None
