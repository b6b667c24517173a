"""Frames between the daemon and a runner, from the daemon's side, which trusts none of them.

A frame is a length (4 bytes, big-endian) and that many bytes of JSON: at most 16 MiB to a runner, and 1 MiB from it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import orjson

from runtime.sandbox.child.channel import MAX_FRAME, MAX_SAID
from store.jsontypes import JsonValue

_CHUNK = 1 << 16
# Reads that empty any socket's buffer.
_BUFFERFULS = 64
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


class FrameSocket:
    """Frames over a socket that does not block; a read that is cancelled can be taken up again.

    asyncio's streams would cost an execution a quarter of what the daemon does for it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._abandoned = False
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()

    async def read(self) -> dict[str, JsonValue] | None:
        """The next frame, None when the other end is closed.

        Raises:
            ProtocolError: what came is no frame with an object in it.
        """
        while (body := self._take()) is None:
            try:
                data = self._connection.recv(_CHUNK)
            except BlockingIOError:
                await self._wait(self._loop.add_reader, self._loop.remove_reader)
                continue
            except ConnectionResetError:
                self._abandoned = True
                return None
            except OSError:
                return None
            if not data:
                return None
            self._received += data
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ProtocolError(f"a message that is no JSON ({error})") from error
        if not isinstance(value, dict):
            raise ProtocolError("a message that is no object")
        return value

    def was_left_unread(self) -> bool:
        """Whether the other end, which has closed, had not read all that was sent; what it sent is read no more."""
        try:
            for _ in range(_BUFFERFULS):
                if not self._connection.recv(_CHUNK):
                    break
        except BlockingIOError:
            pass
        except OSError:  # the connection was reset
            self._abandoned = True
        return self._abandoned

    async def write(self, frame: bytes) -> None:
        """Send a frame, as fast as it is read; if nobody will, the next read tells."""
        rest = memoryview(frame)
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
            except BlockingIOError:
                await self._wait(self._loop.add_writer, self._loop.remove_writer)
            except OSError:
                self._abandoned = True
                return

    def _take(self) -> bytes | None:
        """The body of the first frame, None if it is not whole yet."""
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > MAX_SAID:
            raise ProtocolError(f"a message of {length} bytes")
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        body = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return body

    async def _wait(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready = self._loop.create_future()
        descriptor = self._connection.fileno()
        add(descriptor, _set, ready)
        try:
            await ready
        finally:
            remove(descriptor)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
