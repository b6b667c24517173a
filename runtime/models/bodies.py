"""Reading what endpoints answer with status 200.

Servers that call themselves compatible differ in where reasoning and cached tokens are and in whether content
may be null or a list of parts; those that are broken send HTML, half a document or an error under status 200.
The first are read alike, the second become faults.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from runtime.models.chat import Usage
from runtime.models.faults import Fault, body_fault, filter_fault, status_fault

if TYPE_CHECKING:
    from collections.abc import Callable

_ABORTED = frozenset({"abort", "error"})
_MOST_TOKENS = 1 << 40


@dataclass(frozen=True, slots=True)
class Answer:
    """The useful part of a completion."""

    content: str
    reasoning: str
    finish_reason: str
    usage: Usage
    request_id: str


def read_answer(body: bytes, request_id: str, as_text: Callable[[bytes], str]) -> Answer | Fault:
    """Read a completion; a body that is none becomes the fault that says why.

    `as_text` turns a body into text that an error may hold, without secrets.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        return body_fault("the reply is not a JSON object", as_text(body), request_id=request_id)
    request_id = request_id or text_of(document.get("id"))
    error = document.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return status_fault(code, as_text(body), request_id=request_id)
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return body_fault("the reply has no choices", as_text(body), request_id=request_id)
    finish_reason = text_of(choice.get("finish_reason"))
    usage = _read_usage(document.get("usage"))
    if finish_reason == "content_filter":
        return filter_fault(request_id, usage)
    if finish_reason in _ABORTED:
        return body_fault(f"the reply ended in {finish_reason!r}", as_text(body), request_id=request_id)
    content, thoughts = _read_content(message.get("content"))
    reasoning = text_of(message.get("reasoning_content")) or text_of(message.get("reasoning")) or thoughts
    if usage.prompt and not usage.completion and not content and not reasoning:
        # A model that has nothing to say still says that it is done; here none has spoken at all.
        return body_fault("the reply is empty and no token was generated", as_text(body), request_id=request_id)
    if not (finish_reason or content or reasoning):
        return body_fault("the reply is empty and does not say that it is done", as_text(body), request_id=request_id)
    return Answer(
        content=content, reasoning=reasoning, finish_reason=finish_reason, usage=usage, request_id=request_id
    )


def parse_json(body: bytes) -> object:
    """The document in a body, or None where there is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Lone surrogates and NaN are not JSON for orjson, but such a reply is whole and has been paid for.
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None


def _read_content(content: object) -> tuple[str, str]:
    """Content and reasoning of a message whose content is text, null, or a list of typed parts."""
    if not isinstance(content, list):
        return text_of(content), ""
    parts = [part for part in content if isinstance(part, dict)]
    text = "".join(text_of(part.get("text")) for part in parts if part.get("type") in ("text", "output_text"))
    thoughts = "".join(text_of(part.get("thinking")) for part in parts if part.get("type") == "thinking")
    return text, thoughts


def _read_usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage(prompt=0, completion=0)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else usage.get("prompt_cache_hit_tokens")
    return Usage(
        prompt=count(usage.get("prompt_tokens")),
        completion=count(usage.get("completion_tokens")),
        cached=count(cached),
    )


def count(value: object) -> int:
    """A number of tokens, 0 for anything else, and for more than can be counted up and stored."""
    return value if isinstance(value, int) and 0 < value < _MOST_TOKENS else 0


def text_of(value: object) -> str:
    """A text, empty for anything else; lone surrogates, which no store can hold, become replacement characters."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
