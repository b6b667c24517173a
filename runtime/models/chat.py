"""A chat request and its reply, as the rest of the runtime sees them.

A request has one canonical serialisation, which is both what goes over the wire and what its digest is taken
over: equal digests mean that an endpoint was asked the same thing, byte for byte.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from store.messages import Message

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One chat completion to ask for; `None` leaves a parameter to the endpoint's own default."""

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def body(self, *, limit_name: str = "max_tokens", system_role: str = "system", thinking: bool = True) -> bytes:
        """Serialise to the JSON of `POST /chat/completions`: fixed order of keys, absent parameters left out.

        Lone surrogates, which a program's output may hold and JSON over UTF-8 cannot, become `?`. Models differ in
        what they call the limit on a reply (`limit_name`) and who speaks in a system message (`system_role`); some
        templates take a word that switches `thinking` off.
        """
        # Field by field: what a message carries for our own use must not reach endpoints or digests.
        messages: list[dict[str, object]] = [
            {"role": message.role, "content": _content(message) if message.images else message.content}
            for message in self.messages
        ]
        if system_role != "system":
            for message in messages:
                message["role"] = system_role if message["role"] == "system" else message["role"]
        fields: dict[str, object] = {"model": self.model, "messages": messages}
        parameters = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            limit_name: self.max_tokens,
            "seed": self.seed,
        }
        fields |= {name: value for name, value in parameters.items() if value is not None}
        if self.stop:
            fields["stop"] = self.stop
        if not thinking:
            fields["chat_template_kwargs"] = {"enable_thinking": False}
        return to_json(fields)


def _content(message: Message) -> list[dict[str, object]]:
    """Text and images as the parts of a message."""
    images: list[dict[str, object]] = [{"type": "image_url", "image_url": {"url": url}} for url in message.images]
    return [{"type": "text", "text": message.content}, *images] if message.content else images


def digest_of(body: bytes) -> bytes:
    """Name a serialised request in 16 bytes, for a caller that has the body already."""
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()


def to_json(fields: object) -> bytes:
    """Serialise a request; lone surrogates in its texts become `?`."""
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:
        return orjson.dumps(_in_utf8(fields))


def _in_utf8(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {name: _in_utf8(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_utf8(item) for item in value]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call as the endpoint counts them; zeros where it does not say. `cached` is part of `prompt`."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """What a model answered, and how the call went.

    `content` may be empty: that is the model's answer, not a fault. `reasoning` is what the endpoint reported
    apart from the content, or what the content held in a leading `<think>` block. `latency` is in seconds, of the
    successful attempt alone; `attempts` counts from 1.
    """

    content: str
    reasoning: str
    finish_reason: str
    usage: Usage
    latency: float
    attempts: int
    endpoint: str
    request_id: str
