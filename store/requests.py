"""The stored form of a request's messages: long texts as blob numbers, short ones in place.

A conversation repeats its history in every call, so a message is kept as the parts from which it was composed and
each long part is stored once. The form is a JSON array of messages, each `[role, part, …]` with a role's first
letter and parts that are a blob's number or a short text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import orjson

from store.messages import Message, MessageRole

# A shorter text costs less in place than as a row of its own.
_INLINE_CHARACTERS = 48
_LETTERS: Mapping[MessageRole, str] = {"system": "s", "user": "u", "assistant": "a"}
_ROLES = {letter: role for role, letter in _LETTERS.items()}


def encode_request(messages: Iterable[Message], store_text: Callable[[str], int]) -> bytes:
    """The stored form of messages; `store_text` stores a text and returns its number."""
    rows: list[list[str | int]] = []
    for message in messages:
        parts = message.parts or (message.content,)
        row: list[str | int] = [_LETTERS[message.role]]
        row += [part if len(part) <= _INLINE_CHARACTERS else store_text(part) for part in parts]
        rows.append(row)
    return orjson.dumps(rows)


def referenced_blobs(request: bytes) -> set[int]:
    """The numbers of the blobs that a stored request needs."""
    return {part for row in orjson.loads(request) for part in row if isinstance(part, int)}


def decode_request(request: bytes, texts: Mapping[int, str]) -> tuple[Message, ...]:
    """The messages of a stored request, given the texts of its blobs.

    Raises:
        KeyError: a text is missing.
    """
    messages = []
    for letter, *parts in cast(list[list[str | int]], orjson.loads(request)):
        words = tuple(texts[part] if isinstance(part, int) else part for part in parts)
        messages.append(Message(_ROLES[str(letter)], "".join(words)))
    return tuple(messages)
