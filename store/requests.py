"""The stored form of a request's messages: long texts as blob numbers, short ones in place.

A conversation repeats its history in every call, so a message is kept as the parts from which it was composed and
each long part is stored once. The form is a JSON array: the highest blob number in it, then the messages, each
`[role, part, …]` with a role's first letter and parts that are a short text or how far a blob's number is below the
highest; an image is a list of one number, that of its data URL's blob. It is deflated with a dictionary of what the
agents' requests have in common.
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
# Never to be changed: what was stored with it could not be read any more. Other texts only cost more.
_COMMON = (
    rb'\n\nFiles: \n\n(Steps 0 to 10 are not shown; the progress state keeps what they found.)"],"\n\nResult given: '
    rb'"\n\nDirect answer to the task: "Progress state at the end:\n","\n\nThe run ended: stopped.\n",'
    rb'"\n\nWrite the final result."]]Recent steps:\n"Step 3:\n"\n\nCandidate action of step 3:\n"'
    rb'"\n\nScore this candidate."]]"Progress state at step 3:\n",120,"\n\nWrite the action of step 3."]]'
    rb'[12345,["s",12301],["u","Task: ",12001,"\n\n","Progress state before step 3:\n",120,'
    rb'"\n\nWrite the plan of step 3."]]'
) + b"".join(rb'["a",%d],["u","Observation of step %d:\n",%d],' % (900 - 70 * i, i, 860 - 70 * i) for i in range(10))
# Without zlib's header and checksum, and with the smallest window that holds dictionary and request.
_WINDOW = -15


def encode_request(messages: Iterable[Message], store_text: Callable[[str], int]) -> bytes:
    """The stored form of messages; `store_text` stores a text and returns its number."""
    rows: list[Row] = []
    for message in messages:
        parts = message.parts or (message.content,)
        row: Row = [_LETTERS[message.role]]
        row += [part if len(part) <= _INLINE_CHARACTERS else store_text(part) for part in parts]
        row += [[store_text(url)] for url in message.images]
        rows.append(row)
    highest = max((number for row in rows for number in _numbers(row)), default=0)
    below = [_mirrored(row, highest) for row in rows]
    packer = zlib.compressobj(wbits=_WINDOW, zdict=_COMMON)
    return packer.compress(orjson.dumps([highest, *below])) + packer.flush()


def referenced_blobs(request: bytes) -> set[int]:
    """The numbers of the blobs that a stored request needs."""
    return {number for row in _rows(request) for number in _numbers(row)}


def decode_request(request: bytes, texts: Mapping[int, str]) -> tuple[Message, ...]:
    """The messages of a stored request, given the texts of its blobs.

    Raises:
        KeyError: a text is missing.
    """
    messages = []
    for letter, *parts in _rows(request):
        words = [texts[part] if isinstance(part, int) else part for part in parts if not isinstance(part, list)]
        images = tuple(texts[number] for part in parts if isinstance(part, list) for number in part)
        messages.append(Message(_ROLES[str(letter)], "".join(words), images=images))
    return tuple(messages)


def _rows(request: bytes) -> Iterator[Row]:
    """The messages of a stored form, with the blobs' numbers."""
    text = zlib.decompressobj(wbits=_WINDOW, zdict=_COMMON).decompress(request)
    highest, *rows = cast("tuple[int, *tuple[Row, ...]]", orjson.loads(text))
    for row in rows:
        yield _mirrored(row, highest)


def _mirrored(row: Row, highest: int) -> Row:
    """A row with the numbers of blobs as distances from the highest, and the other way round."""
    return [
        part
        if isinstance(part, str)
        else [highest - each for each in part]
        if isinstance(part, list)
        else highest - part
        for part in row
    ]


def _numbers(row: Row) -> Iterator[int]:
    for part in row:
        if isinstance(part, list):
            yield from part
        elif isinstance(part, int):
            yield part
