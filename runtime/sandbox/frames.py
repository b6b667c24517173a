"""Frames between the daemon and a runner, from the daemon's side, which trusts none of them.

A frame is a length (4 bytes, big-endian) and that many bytes of JSON, at most 16 MiB.
"""

from __future__ import annotations

import asyncio
import struct

import orjson

from runtime.sandbox.child.channel import MAX_FRAME
from store.jsontypes import JsonValue

_LENGTH = struct.Struct(">I")
# Anything else that orjson would write on its own account is not JSON to us.
_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


class ProtocolError(Exception):
    """Raised when what came over a channel is no frame; the message says how."""


def encode_frame(value: JsonValue) -> bytes:
    """The frame of a value.

    Raises:
        ValueError: it is not JSON, or larger than a frame may be.
    """
    try:
        body = orjson.dumps(value, option=_STRICT)
    except TypeError as error:  # what orjson raises is a TypeError and a ValueError in different releases
        raise ValueError(str(error)) from error
    if len(body) > MAX_FRAME:
        raise ValueError(f"larger than {MAX_FRAME >> 20} MiB")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Reads frames off a stream; a read that is cancelled can be taken up again."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._length: int | None = None

    async def read(self) -> dict[str, JsonValue] | None:
        """The next frame, None at the end of the stream.

        Raises:
            ProtocolError: what came is no frame with an object in it.
        """
        try:
            if self._length is None:
                (self._length,) = _LENGTH.unpack(await self._stream.readexactly(_LENGTH.size))
            if self._length > MAX_FRAME:
                raise ProtocolError(f"a message of {self._length} bytes")
            body = await self._stream.readexactly(self._length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self._length = None
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ProtocolError(f"a message that is no JSON ({error})") from error
        if not isinstance(value, dict):
            raise ProtocolError("a message that is no object")
        return value
