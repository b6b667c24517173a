"""Why a call to an endpoint failed, in words, and what to do.

A failure is looked at from below: is there such a host, does anything listen, does it speak TLS, is it an endpoint at
all, does it know the model, does it take the key. What is said never holds a key.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import anyio

from runtime.models.errors import (
    ContentFiltered,
    EndpointPaused,
    EndpointStopped,
    EndpointUnavailable,
    ModelError,
)
from runtime.models.faults import message_in
from runtime.models.findings import EndpointFinding, bad, warn
from runtime.models.served import listed, served_models
from runtime.models.settings import EndpointSettings

_LOOK_S = 10.0
_OF_THE_KEY = (None, 400, 401, 402, 403, 429)  # statuses that stop an endpoint for its key or account


async def explain(
    error: ModelError, settings: EndpointSettings, model: str, served: Sequence[str] | None
) -> EndpointFinding:
    """What a failed call says about the endpoint, with the next step; `served` are the models that it lists."""
    if isinstance(error, EndpointPaused):
        return bad(settings, error.reason.partition("; it is asked")[0], "wait until then, or have its quota raised")
    if isinstance(error, EndpointStopped) and error.status in _OF_THE_KEY:
        return bad(settings, error.reason.partition(";")[0] + _said(error), settings.key_advice)
    if isinstance(error, ContentFiltered):
        return warn(settings, f"it answers, but its content filter refused a harmless question{_said(error)}", "")
    if error.status is None:
        return await _explain_silence(error, settings)
    if _is_page(error.body):
        step = (
            "base_url leads to a web page: a login, a proxy or another program; check host, port and path (…/v1)"
            if error.status < 500
            else "a proxy answers, the model server behind it does not: see whether that one runs"
        )
        return bad(settings, f"it answers with HTML, status {error.status}", step)
    if served is not None and model not in served:
        return bad(
            settings,
            f"it has no model {model!r}; it serves {listed(served)}",
            f"correct the model of {settings.name}",
        )
    if error.status == 404:
        return await _explain_not_found(error, settings, model, served)
    if isinstance(error, EndpointUnavailable):
        step = "wait and try again; if it stays so, see the server's own log"
        return bad(settings, f"{error.reason}, status {error.status}{_said(error)}", step)
    return bad(settings, f"{error.reason}, status {error.status}{_said(error)}", "change what it complains of")


async def _explain_not_found(
    error: ModelError, settings: EndpointSettings, model: str, served: Sequence[str] | None
) -> EndpointFinding:
    if served is not None:
        return bad(settings, f"it lists {model!r} but does not serve it{_said(error)}", "see the server's own log")
    if settings.provider != "openai":
        return bad(
            settings, f"it has no such model or path, status 404{_said(error)}", _where_to_look(settings, model)
        )
    parts = urlsplit(settings.base_url)
    for url in (f"{settings.base_url}/v1", f"{parts.scheme}://{parts.netloc}/v1"):
        other = replace(settings, base_url=url)
        if url != settings.base_url and await served_models(other) is not None:
            return bad(settings, "base_url has the wrong path", f'base_url = "{other.base_url}"')
    step = f"check that base_url ends as the server wants it (…/v1) and that it has a model {model!r}"
    return bad(settings, f"unknown model or path, status 404{_said(error)}", step)


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
        return bad(settings, error.reason, "check network and region")
    host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with anyio.fail_after(_LOOK_S):
            await anyio.getaddrinfo(host, port)
    except (OSError, TimeoutError, UnicodeError):
        return bad(settings, f"the host {host} cannot be found", "check the host in base_url, and name resolution")
    try:
        with anyio.fail_after(_LOOK_S):
            stream = await anyio.connect_tcp(host, port)
            await stream.aclose()
    except TimeoutError:
        return bad(settings, f"{host}:{port} does not answer", "check port and firewall, or set a proxy")
    except OSError:
        step = "start the server there, or correct the port in base_url"
        return bad(settings, f"nothing listens on {host}:{port}", step)
    if parts.scheme == "https" and (fault := await _tls_fault(host, port)):
        return bad(settings, *fault)
    if parts.scheme == "http" and await _tls_fault(host, port, verify=False) is None:
        return bad(settings, f"{host}:{port} speaks TLS, not plain HTTP", "begin base_url with https://")
    if "within" in error.reason:
        step = "is the model still being loaded? Look at the server, or raise timeout"
        return bad(settings, f"it takes the connection, but gives {error.reason}", step)
    return bad(settings, f"it takes the connection and ends it: {error.reason}", "see what serves there")


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


def _is_page(body: str) -> bool:
    return body.lstrip().lower().startswith(("<!doctype", "<html", "<head", "<?xml"))


def _said(error: ModelError) -> str:
    """What the endpoint said, its message alone where it has one."""
    said = message_in(error.body) or error.body
    return f"; it said: {said}" if said else ""
