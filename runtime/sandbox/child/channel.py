"""The runner's side of the channel to the daemon: frames of JSON, and calls of tools over them.

A frame is a length (4 bytes, big-endian) and that many bytes of JSON. The code shares a process with this and can
break it; the daemon is the side that checks.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import json
import os
import signal
import socket
import struct
import threading
from typing import Any

MAX_FRAME = 16 << 20
# What a runner says is read on the daemon's event loop.
MAX_SAID = 1 << 20
_CHUNK = 1 << 20
# Beneath the enumerations of `signal`, which would copy many pages of a fresh fork.
_SIGNALS = frozenset(map(int, signal.valid_signals()))
_LENGTH = struct.Struct(">I")


class ToolError(Exception):
    """What a tool says instead of giving a result."""


# In a traceback the model sees the bare name.
ToolError.__module__ = "__main__"


class Channel:
    """Frames to and from the daemon; threads take turns.

    The supervisor makes it, to whom that costs less, for its fork to `own`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._identity = os.fstat(connection.fileno())
        self._owner = 0
        self._turn = threading.Lock()
        # Apart from turns, so that the end can be told while a thread still waits for a tool.
        self._sending = threading.Lock()
        self._received = bytearray()
        self._calls = 0
        self._broken = False

    def own(self) -> None:
        """Become the one process that uses this."""
        self._owner = os.getpid()

    def fileno(self) -> int:
        """The descriptor."""
        return self._connection.fileno()

    def close(self) -> None:
        """Leave it to the process that owns it."""
        os.close(self._connection.detach())

    @property
    def usable(self) -> bool:
        """Whether this is the runner itself, and the code has not put something else under the descriptor."""
        try:
            same = os.path.samestat(os.fstat(self._connection.fileno()), self._identity)
        except OSError:
            return False
        return same and not self._broken and os.getpid() == self._owner

    def send(self, frame: bytes) -> None:
        """Send a frame, see encode_frame.

        Raises:
            OSError: the daemon cannot be reached any more.
        """
        # A signal handler of the code that raises here would leave half a frame behind.
        blocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)
        try:
            with self._sending:
                self._broken = True
                self._connection.sendall(frame)
                self._broken = False
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, blocked)

    def receive(self) -> bytes:
        """The next frame. Interrupted by an exception it can be called again, and nothing is lost."""
        end = _LENGTH.size
        while True:
            if len(self._received) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
            missing = end - len(self._received)
            if not missing:
                frame = bytes(self._received[_LENGTH.size :])
                self._received.clear()
                return frame
            data = self._connection.recv(min(missing, _CHUNK))
            if not data:
                raise ConnectionError("the tools can no longer be reached")
            self._received += data

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a tool and wait for its result.

        Raises:
            ToolError: the tool said so, or its result cannot be given back.
            TypeError: the arguments are not those of the tool, or not JSON.
            ConnectionError: the code has closed the way to the tools.
        """
        if os.getpid() != self._owner:
            raise ToolError(f"{name}() can be called from threads, but not from other processes")
        with self._turn:
            if not self.usable:
                raise ConnectionError("the tools can no longer be reached: the code closed the way to them")
            self._calls += 1
            number = self._calls
            try:
                frame = encode_frame({"call": number, "tool": name, "args": args, "kwargs": kwargs}, most=MAX_SAID)
            except (TypeError, ValueError, RecursionError) as error:
                raise TypeError(f"{name}() takes what JSON can hold (text, numbers, lists, dicts): {error}") from None
            self.send(frame)
            while True:
                reply = json.loads(self.receive())
                # Replies to calls that an exception of the code interrupted come first.
                if reply["call"] == number:
                    return _result(reply)


def encode_frame(value: Any, most: int = MAX_FRAME) -> bytes:
    """The frame of a value.

    Raises:
        TypeError, ValueError, RecursionError: it is not JSON, or more than so many bytes.
    """
    try:
        body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text with a lone surrogate ({error.object[error.start : error.end]!r})") from None
    if len(body) > most:
        raise ValueError(f"more than {most >> 20} MiB")
    return _LENGTH.pack(len(body)) + body


def _result(reply: dict[str, Any]) -> Any:
    if "error" not in reply:
        return reply["value"]
    if reply["error"] == "arguments":
        raise TypeError(reply["message"])
    raise ToolError(reply["message"])
