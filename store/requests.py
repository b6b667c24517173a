"""The stored form of a request's messages: long texts as blob numbers, short ones in place.

A conversation repeats its history in every call, so a message is kept as the parts from which it was composed and
each long part is stored once. The form is a JSON array of messages, each `[role, part, …]` with a role's first
letter and parts that are a short text or a blob's number; an image is a list of one number, that of its data URL's
blob. It is deflated, since neighbouring numbers are alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import orjson

from store.messages import Message, MessageRole

Row = list[str | int | list[int]]

# A shorter text costs less in place than as a row of its own.
_INLINE_CHARACTERS = 48
_LETTERS: Mapping[MessageRole, str] = {"system": "s", "user": "u", "assistant": "a"}
_ROLES = {letter: role for role, letter in _LETTERS.items()}
# Without zlib's header and checksum, which would be a tenth of a usual request. A window of 4 KB is enough for it and
# takes half the time to set up.
_RAW_DEFLATE = -15
_SMALL_RAW_DEFLATE = -12
_SMALL_MEMORY = 5


def encode_request(messages: Iterable[Message], store_text: Callable[[str], int]) -> bytes:
    """The stored form of messages; `store_text` stores a text and returns its number."""
    rows: list[Row] = []
    for message in messages:
        parts = message.parts or (message.content,)
        row: Row = [_LETTERS[message.role]]
        row += [part if len(part) <= _INLINE_CHARACTERS else store_text(part) for part in parts]
        row += [[store_text(url)] for url in message.images]
        rows.append(row)
    packer = zlib.compressobj(wbits=_SMALL_RAW_DEFLATE, memLevel=_SMALL_MEMORY)
    return packer.compress(orjson.dumps(rows)) + packer.flush()


def referenced_blobs(request: bytes) -> set[int]:
    """The numbers of the blobs that a stored request needs.

    Raises:
        ValueError: the row is damaged.
    """
    return {number for row in _rows(request) for number in _numbers(row)}


def decode_request(request: bytes, texts: Mapping[int, str]) -> tuple[Message, ...]:
    """The messages of a stored request, given the texts of its blobs.

    Raises:
        KeyError: a text is missing.
        ValueError: the row is damaged.
    """
    messages = []
    for letter, *parts in _rows(request):
        words = [texts[part] if isinstance(part, int) else part for part in parts if not isinstance(part, list)]
        images = tuple(texts[number] for part in parts if isinstance(part, list) for number in part)
        messages.append(Message(_ROLES[str(letter)], "".join(words), images=images))
    return tuple(messages)


def _rows(request: bytes) -> list[Row]:
    try:
        return cast("list[Row]", orjson.loads(zlib.decompress(request, wbits=_RAW_DEFLATE)))
    except zlib.error as error:
        raise ValueError(f"a request cannot be read: {error}") from error


def _numbers(row: Row) -> Iterator[int]:
    for part in row:
        if isinstance(part, list):
            yield from part
        elif isinstance(part, int):
            yield part
