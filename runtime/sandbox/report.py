"""The supervisor's report on an execution, and the daemon's end of the socket on which it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import orjson

# A report of more than its output is no report.
_MAX_HEADER = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a supervisor says in the end.

    `status` is the runner's wait status, None if it was not seen to end; `problem` tells what went wrong with the
    sandbox itself.
    """

    status: int | None = None
    stopped: bool = False
    problem: str | None = None
    total: int = 0
    head: bytes = b""
    tail: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Report | None:
        """The report in what a supervisor sent, None if it is not whole."""
        header, end, body = data.partition(b"\n")
        if not end:
            return None
        fields = orjson.loads(header)
        if "status" not in fields:
            return cls(problem=fields["problem"])
        head, tail = fields["head"], fields["tail"]
        if len(body) < head + tail:
            return None
        return cls(
            status=fields["status"],
            stopped=fields["stopped"],
            problem=fields["problem"],
            total=fields["total"],
            head=body[:head],
            tail=body[head : head + tail],
        )

    def output(self) -> str:
        """What was printed, with a marker where bytes are missing."""
        missing = self.total - len(self.head) - len(self.tail)
        if not missing:
            return (self.head + self.tail).decode("utf-8", errors="replace")
        # A character that the cut went through is left out with the rest.
        head = self.head.decode("utf-8", errors="replace").rstrip("\ufffd")
        tail = self.tail.decode("utf-8", errors="replace").lstrip("\ufffd")
        return f"{head}\n[{missing} bytes left out]\n{tail}"


class ControlSocket(asyncio.Protocol):
    """The daemon's end of a supervisor's control socket.

    Its other end closes when nothing of the execution is left: that is when `over` is set.
    """

    def __init__(self, output_bytes: int, ended: Callable[[], None]) -> None:
        self._room = output_bytes + _MAX_HEADER
        self._ended = ended
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None
        self.over = anyio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > self._room and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self.over.set()
        self._ended()

    @property
    def report(self) -> Report | None:
        """What the supervisor said, None if it ended without a word."""
        return Report.parse(bytes(self._data))

    def stop(self) -> None:
        """Tell the supervisor to end the execution now."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
