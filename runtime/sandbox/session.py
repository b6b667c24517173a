"""One execution, seen from the daemon: talking with its runner until nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import anyio
import structlog

from runtime.errors import InfrastructureError
from runtime.sandbox.clock import CodeClock
from runtime.sandbox.execution import Execution, Limits, Tool
from runtime.sandbox.frames import FrameReader, ProtocolError, encode_frame
from runtime.sandbox.report import ControlSocket
from runtime.sandbox.toolcalls import ToolCall
from runtime.sandbox.verdict import Claim, Findings
from runtime.sandbox.zygote import ZygoteHandle
from store.jsontypes import JsonValue

_log = structlog.get_logger("sandbox")

_BEGIN_S = 30.0
# Between the runner's claim that the code has ended and the end of its process.
_LEAVE_S = 5.0
_DRAIN_S = 2.0
# The supervisor itself allows 10 s to end processes and 2 s each to tidy two folders.
_STOP_S = 20.0
_MOP_S = 10.0


class Session:
    """One execution under way."""

    def __init__(self, run: int, zygote: ZygoteHandle, limits: Limits) -> None:
        self._run = run
        self._zygote = zygote
        self._limits = limits
        self._talking = anyio.CancelScope()
        self._clock = CodeClock(limits.timeout, self._expire)
        self._control = ControlSocket(limits.output_bytes, self._talking.cancel)
        self._findings = Findings()
        self._zygote_lost = False
        self._problem: str | None = None

    async def conduct(self, slot: int, workspace: Path, code: str, tools: Mapping[str, Tool]) -> Execution:
        """See the execution through to its end.

        Raises:
            InfrastructureError: the sandbox failed, or the zygote died.
            Exception: whatever a tool raised that was not a ToolError.
        """
        program = _encode_program(code, list(tools))
        ...

    def _expire(self) -> None:
        self._findings.timeout = self._limits.timeout
        self._control.stop()
