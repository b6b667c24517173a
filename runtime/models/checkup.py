"""Asking an endpoint one tiny question, and saying in words what is wrong and what to do.

A failure is looked at from below: is there such a host, does anything listen, does it speak TLS, is it an endpoint at
all, does it know the model, does it take the key. What is said never holds a key.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import aiohttp
import anyio
import orjson

from runtime.errors import ConfigError
from runtime.models.capabilities import Capabilities
from runtime.models.chat import ChatReply, ChatRequest
from runtime.models.endpoint import Endpoint
from runtime.models.errors import ContentFiltered, EndpointStopped, EndpointUnavailable, ModelError
from runtime.models.pictures import white_square
from runtime.models.settings import PLACEHOLDER_KEY, EndpointSettings
from runtime.models.transport import MissingExtraError
from store.health import Finding, Level
from store.messages import Message

PATIENCE_S = 60.0
_LOOK_S = 10.0
_SHOWN = 5
_MAX_BODY = 1 << 20
_QUESTION = (Message("user", "Reply with the word OK."),)
# No smaller: some models refuse images of a few pixels.
_SIGHT = (Message("user", "Reply with the word OK if you see a white square.", images=(white_square(64),)),)
# Enough for models that think before they speak to say something.
_REPLY_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFinding(Finding):
    """What was found about an endpoint, with what programs may want to know of one that replied.

    `latency` is in seconds; `capabilities` are those that requests are fitted to.
    """

    url: str
    model: str = ""
    latency: float | None = None
    capabilities: Capabilities | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What an endpoint says it serves: model names, None where it does not say; `status` of that answer, if any."""

    models: Sequence[str] | None
    status: int | None


async def check_endpoint(settings: EndpointSettings, *, model: str, send_seed: bool) -> Sequence[Finding]:
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
        return [_bad(settings, error.need, error.command)]
    except ConfigError as error:
        return [_bad(settings, str(error).removeprefix(f"endpoint {settings.name}: "), "correct that setting")]


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
        return [*_praise(settings, model, reply, served, seed=None), _warn(settings, "it refuses a seed", step)]
    if refusal is not None:
        return [await explain(refusal, settings, model, served)]
    return _praise(settings, model, reply, served, seed=with_seed)


async def _ask(endpoint: Endpoint, model: str, *, seed: int | None) -> ChatReply:
    question = _SIGHT if endpoint.settings.name == "vision" else _QUESTION
    request = ChatRequest(model=model, messages=question, max_tokens=_REPLY_TOKENS, seed=seed)
    return await endpoint.complete(request, headers={"x-cso-role": endpoint.settings.name, "x-cso-module": "doctor"})


def _praise(
    settings: EndpointSettings, model: str, reply: ChatReply, served: Served, *, seed: bool | None
) -> list[EndpointFinding]:
    """What to say of an endpoint that has replied; `seed` tells whether one was accepted, None if it was refused."""
    usage = reply.usage
    parts = [f"{model} replied in {reply.latency:.2f} s"]
    if usage.prompt:
        parts.append(f"reports tokens ({usage.prompt} + {usage.completion}, {usage.cached} cached)")
    parts += ["takes an image"] if settings.name == "vision" else []
    parts += ["accepts a seed"] if seed else []
    parts.append(_takes(settings) + (", no seed" if seed is False else ""))
    if served.models is not None:
        parts.append(f"serves {_some(served.models)}")
    praise = _found(settings, "ok", "; ".join(parts))
    findings = [replace(praise, model=model, latency=round(reply.latency, 3), capabilities=settings.capabilities)]
    if not usage.prompt:
        step = "have the server report usage; until then tokens and costs of its calls are not known, nor capped"
        findings.append(_warn(settings, "it does not say how many tokens a call took", step))
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


async def explain(error: ModelError, settings: EndpointSettings, model: str, served: Served) -> EndpointFinding:
    """What a failed call says about the endpoint, with the next step."""
    if isinstance(error, EndpointStopped):
        return _bad(settings, error.reason.partition(";")[0] + _said(error), settings.key_advice)
    if isinstance(error, ContentFiltered):
        return _warn(settings, f"it answers, but its content filter refused a harmless question{_said(error)}", "")
    if error.status is None:
        return await _explain_silence(error, settings)
    if _is_page(error.body):
        step = (
            "base_url leads to a web page: a login, a proxy or another program; check host, port and path (…/v1)"
            if error.status < 500
            else "a proxy answers, the model server behind it does not: see whether that one runs"
        )
        return _bad(settings, f"it answers with HTML, status {error.status}", step)
    if served.models is not None and model not in served.models:
        return _bad(
            settings,
            f"it has no model {model!r}; it serves {_some(served.models)}",
            f"correct the model of {settings.name}",
        )
    if error.status == 404:
        return await _explain_not_found(error, settings, model, served)
    if isinstance(error, EndpointUnavailable):
        step = "wait and try again; if it stays so, see the server's own log"
        return _bad(settings, f"{error.reason}, status {error.status}{_said(error)}", step)
    return _bad(settings, f"{error.reason}, status {error.status}{_said(error)}", "change what it complains of")


async def _explain_not_found(
    error: ModelError, settings: EndpointSettings, model: str, served: Served
) -> EndpointFinding:
    if served.models is not None:
        return _bad(settings, f"it lists {model!r} but does not serve it{_said(error)}", "see the server's own log")
    if settings.provider != "openai":
        return _bad(
            settings, f"it has no such model or path, status 404{_said(error)}", _where_to_look(settings, model)
        )
    parts = urlsplit(settings.base_url)
    for url in (f"{settings.base_url}/v1", f"{parts.scheme}://{parts.netloc}/v1"):
        other = replace(settings, base_url=url)
        if url != settings.base_url and (await served_models(other)).models is not None:
            return _bad(settings, "base_url has the wrong path", f'base_url = "{other.base_url}"')
    step = f"check that base_url ends as the server wants it (…/v1) and that it has a model {model!r}"
    return _bad(settings, f"unknown model or path, status 404{_said(error)}", step)


def _where_to_look(settings: EndpointSettings, model: str) -> str:
    """What decides at a provider of its own whether there is such a model."""
    if settings.provider == "azure":
        return f"check that base_url is the resource's, and that it has a deployment {settings.deployment!r}"
    if settings.provider == "bedrock":
        return f"check that {model!r} is a model or profile of the region, and that the account may use it"
    return f"check that base_url has no path, and that the account may use a model {model!r}"


async def _explain_silence(error: ModelError, settings: EndpointSettings) -> EndpointFinding:
    """Why no HTTP answer came at all, found out step by step."""
    parts = urlsplit(settings.base_url)
    if not parts.hostname:
        return _bad(settings, error.reason, "check network and region")
    host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with anyio.fail_after(_LOOK_S):
            await anyio.getaddrinfo(host, port)
    except (OSError, TimeoutError, UnicodeError):
        return _bad(settings, f"the host {host} cannot be found", "check the host in base_url, and name resolution")
    try:
        with anyio.fail_after(_LOOK_S):
            stream = await anyio.connect_tcp(host, port)
            await stream.aclose()
    except TimeoutError:
        return _bad(settings, f"{host}:{port} does not answer", "check port and firewall, or set a proxy")
    except OSError:
        step = "start the server there, or correct the port in base_url"
        return _bad(settings, f"nothing listens on {host}:{port}", step)
    if parts.scheme == "https" and (fault := await _tls_fault(host, port)):
        return _bad(settings, *fault)
    if parts.scheme == "http" and await _tls_fault(host, port, verify=False) is None:
        return _bad(settings, f"{host}:{port} speaks TLS, not plain HTTP", "begin base_url with https://")
    if "within" in error.reason:
        step = "is the model still being loaded? Look at the server, or raise timeout"
        return _bad(settings, f"it takes the connection, but gives {error.reason}", step)
    return _bad(settings, f"it takes the connection and ends it: {error.reason}", "see what serves there")


async def _tls_fault(host: str, port: int, *, verify: bool = True) -> tuple[str, str] | None:
    """What is wrong with the TLS of a server and the next step; None if nothing is."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with anyio.fail_after(_LOOK_S):
            stream = await anyio.connect_tcp(host, port, tls=True, ssl_context=context, tls_standard_compatible=False)
            await stream.aclose()
    except ssl.SSLCertVerificationError as error:
        step = "name the certificate's authority in SSL_CERT_FILE, or use the name that the certificate is for"
        return f"its certificate is not trusted: {error.verify_message}", step
    except (ssl.SSLError, OSError, TimeoutError, anyio.BrokenResourceError, anyio.EndOfStream):
        return f"{host}:{port} does not speak TLS", "begin base_url with http://, or correct the port"
    return None


async def served_models(settings: EndpointSettings) -> Served:
    """What `GET /models` says, for endpoints of OpenAI's kind; others are not asked."""
    if settings.provider != "openai":
        return Served(models=None, status=None)
    headers = {**dict(settings.headers), "Authorization": f"Bearer {settings.api_key or PLACEHOLDER_KEY}"}
    timeout = aiohttp.ClientTimeout(total=_LOOK_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{settings.base_url}/models", headers=headers, allow_redirects=False) as response,
        ):
            body = await response.content.read(_MAX_BODY)
            return Served(models=_model_names(body) if response.status == 200 else None, status=response.status)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Served(models=None, status=None)


def _model_names(body: bytes) -> list[str] | None:
    try:
        listed = orjson.loads(body)["data"]
        return [str(model["id"]) for model in listed]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) + more) or "no model"


def _is_page(body: str) -> bool:
    return body.lstrip().lower().startswith(("<!doctype", "<html", "<head", "<?xml"))


def _said(error: ModelError) -> str:
    """What the endpoint said, its message alone where it has one."""
    said = _message(error.body) or error.body
    return f"; it said: {said}" if said else ""


def _message(body: str) -> str:
    """The sentence in an error's body, empty where it has none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    inner = document.get("error", document) if isinstance(document, dict) else document
    found = [inner.get("message"), inner.get("detail")] if isinstance(inner, dict) else [inner]
    return next((text for text in found if text and isinstance(text, str)), "")


def _bad(settings: EndpointSettings, text: str, step: str) -> EndpointFinding:
    return _found(settings, "fail", text, step)


def _warn(settings: EndpointSettings, text: str, step: str) -> EndpointFinding:
    return _found(settings, "warn", text, step)


def _found(settings: EndpointSettings, level: Level, text: str, step: str = "") -> EndpointFinding:
    where = settings.base_url or f"{settings.provider} {settings.region}".strip()
    return EndpointFinding(
        check=settings.name, level=level, text=f"{where}: {text}", next_step=step, url=settings.base_url
    )
