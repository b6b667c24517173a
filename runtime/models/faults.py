"""Sorting of what can go wrong in one attempt into what to do next.

    NOW    the connection broke: the next attempt may start at once
    LATER  the endpoint is overloaded or ill: back off first
    NEVER  the same request will get the same answer, or may not be sent again

A fault is a value, not an exception: it holds plain text only, so that neither an error made from it nor its
traceback leads back to a request with a key in its headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import orjson

from runtime.models.connecting import why_broken, why_unreached
from runtime.models.errors import (
    BODY_CHARS,
    ContentFiltered,
    ContextOverflow,
    EndpointPaused,
    EndpointStopped,
    EndpointUnavailable,
    ModelError,
    RequestRefused,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.models.chat import Usage

REFUSED = frozenset({429, 503, 529})
"""Statuses with which a server sheds load: they, and timeouts, make an adaptive window smaller."""

AWAY = frozenset({502, 503, 504, 521, 522, 523, 529})
"""Statuses with which a proxy tells that nobody is behind it, or a server that it is too busy, about no request."""

_GIST_CHARS = 600
_MODEL_ADVICE = "correct base_url, or the model (then start with `--accept-changes`)"
_AWAY_ADVICE = "look at the server there; it is asked again less and less often, or at once with `cso retry --all`"
_USED_UP = "its limit on requests or tokens is used up"
_TRANSIENT_4XX = frozenset({408, 409, 424, 425, 429, 499})  # 424 is a failing model, at Bedrock and TGI

_OVERFLOW = re.compile(
    r"context[_ ]length|context[_ ]window|context[_ ]size|exceed context limit|maximum model length|max_model_len"
    r"|maximum prompt length"
    r"|(?:prompt|input|request)\b[^.]{0,40}\btoo (?:long|large)"
    r"|input token(?:s| count)\b[^.]{0,60}\bexceed"
    r"|string_above_max_length|inputs?`? tokens? \+ .max_new_tokens",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[_ ]?filter|content_?policy_?violation|ResponsibleAIPolicyViolation|data_inspection_failed"
    r"|flagged as potentially violating",
    re.IGNORECASE,
)
_OUT_OF_CREDIT = re.compile(
    r"insufficient_quota|insufficient[_ ](?:balance|credits?)|credit balance is too low|billing_not_active",
    re.IGNORECASE,
)


class Reaction(Enum):
    """When a request that met a fault may be sent again."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One attempt that brought no reply, in plain values; `body` is redacted and cut already.

    `usage` is what the endpoint counted all the same, None where it did not say. `advice` says what to do about it,
    where that is not about the key. `unreached`: there was no connection.
    """

    reaction: Reaction
    error: type[ModelError]
    reason: str
    status: int | None = None
    request_id: str = ""
    retry_after: float | None = None
    body: str = ""
    overload: bool = False
    usage: Usage | None = None
    advice: str = ""
    unreached: bool = False

    def to_error(self, endpoint: str, *, attempts: int, reason: str = "") -> ModelError:
        """Make the error that a caller gets when this fault is where the call ends."""
        return self.error(
            reason or self.reason,
            endpoint=endpoint,
            attempts=attempts,
            status=self.status,
            request_id=self.request_id,
            retry_after=self.retry_after,
            body=self.body,
            usage=self.usage,
        )


def status_fault(status: int, text: str, *, request_id: str = "", retry_after: float | None = None) -> Fault:
    """Sort an answer with an error status; `text` is its body without secrets."""
    reaction, error, reason = _sort_status(status, error_gist(text))
    reason, _, advice = reason.partition("; ")
    return Fault(
        reaction=reaction,
        error=error,
        reason=reason,
        advice=advice,
        status=status,
        request_id=request_id,
        retry_after=retry_after if reaction is Reaction.LATER else None,
        body=excerpt(text),
        overload=status in REFUSED and reaction is Reaction.LATER,
    )


def error_gist(text: str) -> str:
    """What an error body says for itself, without what it may repeat of the request.

    Validation errors echo prompts, and a prompt that speaks of content filters must not look like one's verdict.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text[:_GIST_CHARS]
    error = document.get("error", document) if isinstance(document, dict) else document
    if not isinstance(error, dict):
        return str(error)[:_GIST_CHARS]
    inner = error.get("innererror")
    codes = [error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    # A detail that is a list repeats what was wrong with the request, one text does not.
    detail = error.get("detail")
    said = error.get("message") or (detail if isinstance(detail, str) else None)
    return " ".join(str(part)[:_GIST_CHARS] for part in (*codes, said) if part is not None)


def message_in(body: str) -> str:
    """The sentence in an error's body, empty where it has none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    inner = document.get("error", document) if isinstance(document, dict) else document
    found = [inner.get("message"), inner.get("detail")] if isinstance(inner, dict) else [inner]
    return next((text for text in found if text and isinstance(text, str)), "")


def _sort_status(status: int, text: str) -> tuple[Reaction, type[ModelError], str]:
    if status in (401, 403):
        # A filter may answer 403 too, and stopping a role for one prompt would be out of proportion.
        if status == 403 and _FILTERED.search(text):
            return Reaction.NEVER, ContentFiltered, "the content filter refused the request"
        return Reaction.NEVER, EndpointStopped, "the key was refused"
    if status == 407:
        return Reaction.NEVER, EndpointStopped, "the proxy refused us; put user and password into its address"
    if status == 402 or (status in (400, 429) and _OUT_OF_CREDIT.search(text)):
        return Reaction.NEVER, EndpointStopped, "the account has no credit left"
    if status >= 500 or status in _TRANSIENT_4XX:
        return Reaction.LATER, EndpointUnavailable, "rate limited" if status == 429 else "the endpoint failed"
    if _FILTERED.search(text):
        return Reaction.NEVER, ContentFiltered, "the content filter refused the request"
    if status == 413 or (status in (400, 422) and _OVERFLOW.search(text)):
        return Reaction.NEVER, ContextOverflow, "the messages do not fit into the model's context"
    if status == 404:
        return Reaction.NEVER, EndpointStopped, f"unknown model or path; {_MODEL_ADVICE}"
    if 300 <= status < 400:
        return Reaction.NEVER, EndpointStopped, "it redirects elsewhere; put the final address into base_url"
    return Reaction.NEVER, RequestRefused, "the request was refused"


def body_fault(reason: str, text: str, *, request_id: str = "") -> Fault:
    """A reply with status 200 that is none: truncated, HTML, without choices."""
    return Fault(
        reaction=Reaction.LATER,
        error=EndpointUnavailable,
        reason=reason,
        status=200,
        request_id=request_id,
        body=excerpt(text),
    )


def filter_fault(request_id: str, usage: Usage) -> Fault:
    """A reply that the content filter cut off or emptied; it is billed like any other."""
    return Fault(
        reaction=Reaction.NEVER,
        error=ContentFiltered,
        reason="the content filter stopped the reply",
        status=200,
        request_id=request_id,
        usage=usage,
    )


def pause_fault(why: Fault | None, until: str) -> Fault:
    """What calls end with while an endpoint is to be left alone until a time, as people read it.

    `why` is the answer that says so; None if it was a reply, with a limit that it used up.
    """
    why = why or Fault(reaction=Reaction.NEVER, error=EndpointPaused, reason=_USED_UP)
    said = message_in(why.body)
    return replace(
        why,
        reaction=Reaction.NEVER,
        error=EndpointPaused,
        reason=f"it wants to be left alone until {until}: {why.reason}" + (f" ({said.rstrip('.')})" if said else ""),
        advice="it is asked again then, or at once with `cso retry --all`",
    )


def absence_fault(why: Fault, reason: str) -> Fault:
    """What calls end with while an endpoint that has replied before is gone; `why` is how that was met."""
    return replace(
        why, reaction=Reaction.NEVER, error=EndpointPaused, reason=reason, advice=why.advice or _AWAY_ADVICE
    )


def timeout_fault(seconds: float, *, overload: bool) -> Fault:
    """An attempt that took longer than it may; overload if it had all of an attempt's time."""
    return Fault(
        reaction=Reaction.LATER,
        error=EndpointUnavailable,
        reason=f"no complete reply within {seconds:g} s",
        overload=overload,
    )


def connection_fault(error: BaseException, *, elapsed: float, connect_timeout: float) -> Fault:
    """Sort an exception of the SDK's transport.

    The SDK calls a connection that the server dropped a timeout, at once and with the truth in the cause. So a
    timeout counts as one only if its cause is one, or if there is no known cause and its time had truly passed.
    """
    causes = list(_causes(error))
    if why := why_unreached(causes):
        # Nobody listens, or no such host: asking again at once would only spin.
        return unreached_fault(*why)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return timeout_fault(elapsed, overload=False)
    if "Timeout" in type(error).__name__ and len(causes) < 2 and elapsed >= connect_timeout:
        return timeout_fault(elapsed, overload=False)
    return Fault(reaction=Reaction.NOW, error=EndpointUnavailable, reason=f"connection lost: {why_broken(causes)}")


def unreached_fault(reason: str, advice: str) -> Fault:
    """There was no connection; `advice` says what to check."""
    return Fault(
        reaction=Reaction.LATER,
        error=EndpointUnavailable,
        reason=f"cannot connect: {reason}",
        advice=advice,
        unreached=True,
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def excerpt(text: str) -> str:
    """Cut an answer to what an error may hold, on one line."""
    return " ".join(text[: 4 * BODY_CHARS].split())[:BODY_CHARS]
