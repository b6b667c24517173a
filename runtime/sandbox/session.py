"""One execution, seen from the daemon: talking with its runner until nothing of it is left.

Everything happens in the task that asked for the execution; the clock, the supervisor's report and the death of the
zygote break off the talk with the runner, and what follows is always the same: stop, wait until it is over, judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from runtime.errors import InfrastructureError
from runtime.logs import get_logger
from runtime.sandbox.child.channel import MAX_FRAME
from runtime.sandbox.clock import CodeClock
from runtime.sandbox.execution import Execution, Limits, Tool
from runtime.sandbox.frames import FrameReader, ProtocolError
from runtime.sandbox.report import ControlSocket
from runtime.sandbox.toolcalls import ToolCall
from runtime.sandbox.verdict import Claim, Findings
from runtime.sandbox.zygote import ZygoteHandle, socket_pair
from store.jsontypes import JsonValue

_log = get_logger("sandbox")

_BEGIN_S = 30.0
# Between the runner's claim that the code has ended and the end of its process.
_LEAVE_S = 5.0
_DRAIN_S = 2.0
# The supervisor allows 5 s to end processes, and 2 s to tidy each of two folders.
_STOP_S = 12.0
_MOP_S = 8.0
_NEWS_S = 0.5


def encode_program(code: str, tools: Iterable[str]) -> bytes | None:
    """The frame that tells a runner what to run; None if it is larger than a frame may be."""
    # Code may hold lone surrogates, which this way of writing JSON lets through to the compiler's own message.
    body = json.dumps({"code": code, "tools": list(tools)}).encode()
    return len(body).to_bytes(4, "big") + body if len(body) <= MAX_FRAME else None


@dataclass(frozen=True, slots=True)
class _FarEnds:
    """What the supervisor and the runner get; ours to close once they have it."""

    ends: tuple[socket.socket, socket.socket]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for end in self.ends:
            end.close()


class Session:
    """One execution under way, numbered `run`."""

    def __init__(self, run: int, zygote: ZygoteHandle, limits: Limits) -> None:
        self._run = run
        self._zygote = zygote
        self._limits = limits
        self._talking = anyio.CancelScope()
        self._clock = CodeClock(limits.timeout, self._talking.cancel)
        self._control = ControlSocket(limits.output_bytes, self._talking.cancel)
        self._findings = Findings()
        self._zygote_lost = False

    async def conduct(self, slot: int, workspace: Path, program: bytes, tools: Mapping[str, Tool]) -> Execution:
        """See the execution through; when this returns or raises, nothing of it is left.

        Raises:
            InfrastructureError: the sandbox failed, or the zygote died.
            Exception: whatever a tool raised that was not a ToolError.
        """
        reader, writer, far = await self._open()
        try:
            with self._zygote.mourning(self._lose_zygote):
                with far:
                    await self._zygote.fork(self._request(slot, workspace), *far.ends)
                await self._talk(FrameReader(reader), writer, program, tools)
        finally:
            await self._end()
            writer.close()
        return await self._judge()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, _FarEnds]:
        control, far_control = socket_pair()
        try:
            channel, far_channel = socket_pair()
        except InfrastructureError:
            control.close()
            far_control.close()
            raise
        with anyio.CancelScope(shield=True):  # neither waits for anything, and both belong together
            await asyncio.get_running_loop().create_unix_connection(lambda: self._control, sock=control)
            reader, writer = await asyncio.open_unix_connection(sock=channel)
        return reader, writer, _FarEnds((far_control, far_channel))

    async def _talk(
        self, frames: FrameReader, writer: asyncio.StreamWriter, program: bytes, tools: Mapping[str, Tool]
    ) -> None:
        try:
            with self._talking:
                await self._begin(frames, writer, program)
                await self._serve(frames, writer, tools)
            await self._hear_out(frames)
        except ProtocolError as error:
            self._findings.attack = str(error)

    async def _begin(self, frames: FrameReader, writer: asyncio.StreamWriter, program: bytes) -> None:
        """Send the code and wait until the runner starts it."""
        with anyio.move_on_after(_BEGIN_S) as starting:
            writer.write(program)
            message = await frames.read()
        if starting.cancelled_caught:
            # Most likely somebody has stopped the zygote.
            self._zygote.destroy()
            raise InfrastructureError(f"the sandbox did not start the code within {_BEGIN_S:g} s")
        if message is not None and "problem" in message:
            raise InfrastructureError(f"the sandbox did not start the code: {message['problem']}")
        if message is not None:
            self._clock.start()

    async def _serve(self, frames: FrameReader, writer: asyncio.StreamWriter, tools: Mapping[str, Tool]) -> None:
        """Answer calls until the code has ended or has closed the channel, then wait for its processes to end."""
        while (message := await frames.read()) is not None:
            if "end" in message:
                self._findings.claim = Claim.parse(message)
                self._clock.stop()
                with anyio.move_on_after(_LEAVE_S):
                    await self._control.over.wait()
                return
            call = ToolCall.parse(message)
            self._clock.stop()
            answer = await call.answer(tools)
            self._clock.start()
            writer.write(answer)
            # Code that calls and never reads must not fill our memory. If it is gone, the next read tells.
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        await self._control.over.wait()

    async def _hear_out(self, frames: FrameReader) -> None:
        """Take what the runner said last, if the end of its process overtook it."""
        if self._clock.expired or self._findings.claim is not None or not self._control.over.is_set():
            return
        with anyio.move_on_after(_DRAIN_S):
            while (message := await frames.read()) is not None:
                if "end" in message:
                    self._findings.claim = Claim.parse(message)

    async def _end(self) -> None:
        """Make sure that nothing of the execution is left, by means that grow rougher."""
        self._clock.stop()
        with anyio.CancelScope(shield=True):
            self._control.stop()
            if await self._over_within(_STOP_S):
                return
            _log.warning("supervisor-unresponsive", run=self._run)
            self._zygote.kill_supervisor(self._run)
            if await self._over_within(_MOP_S):
                return
            self._zygote.destroy()
            if not await self._over_within(_MOP_S):
                _log.error("execution-not-ended", run=self._run)

    async def _over_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._control.over.wait()
        return self._control.over.is_set()

    def _lose_zygote(self) -> None:
        self._zygote_lost = True
        self._talking.cancel()

    async def _judge(self) -> Execution:
        self._findings.report = self._control.report
        if self._clock.expired:
            self._findings.timeout = self._limits.timeout
        elif self._findings.attack is None and self._findings.supervisor_lost:
            # The death of the zygote has the same effect, and the news of it may come second.
            self._zygote_lost |= await self._zygote.ends_within(_NEWS_S)
        if self._zygote_lost:
            raise InfrastructureError("the sandbox's zygote ended while code was running, or the sandbox was closed")
        # Where code runs as the daemon's own user, it can kill its supervisor.
        return self._findings.execution(self._clock.seconds, may_kill_supervisor=self._zygote.first_uid is None)

    def _request(self, slot: int, workspace: Path) -> dict[str, JsonValue]:
        limits = self._limits
        return {
            "run": self._run,
            "slot": slot,
            "workspace": str(workspace),
            "limits": {
                "memory_mb": limits.memory_mb,
                "output_bytes": limits.output_bytes,
                "file_mb": limits.file_mb,
                "processes": limits.processes,
                "open_files": limits.open_files,
            },
        }
