"""One execution, seen from the daemon: talking with its runner until nothing of it is left.

Everything happens in the task that asked for the execution; the clock, the supervisor's report and the death of the
zygote break off the talk with the runner, and what follows is always the same: stop, wait until it is over, judge.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from runtime.clock import loop_time
from runtime.errors import InfrastructureError
from runtime.logs import get_logger
from runtime.sandbox.child.channel import MAX_FRAME
from runtime.sandbox.clock import CodeClock
from runtime.sandbox.execution import Execution, Limits, Tool
from runtime.sandbox.frames import FrameSocket, ProtocolError
from runtime.sandbox.supervisor import SupervisorHandle
from runtime.sandbox.toolcalls import ToolCall
from runtime.sandbox.verdict import Claim, Findings
from runtime.sandbox.zygote import ZygoteHandle

_log = get_logger("sandbox")

_BEGIN_S = 30.0
# Between the runner's claim that the code has ended and the end of its process.
_LEAVE_S = 5.0
_DRAIN_S = 2.0
# The supervisor allows 5 s to end processes, and 2 s to tidy each of two folders.
_STOP_S = 12.0
_MOP_S = 8.0
_NEWS_S = 0.5
# What the daemon itself has to do for a call counts as the code's time, or a loop of calls would never end.
_CHARGED_S = 0.05
_MOST_CALLS = 10_000


def encode_program(code: str) -> bytes | None:
    """The frame that tells a runner what to run; None if it is larger than a frame may be."""
    # Lone surrogates pass, for the compiler to complain of.
    body = code.encode("utf-8", errors="surrogatepass")
    return len(body).to_bytes(4, "big") + body if len(body) <= MAX_FRAME else None


class Session:
    """One execution under way, with a supervisor that has no other and has begun it."""

    def __init__(self, zygote: ZygoteHandle, supervisor: SupervisorHandle, limits: Limits) -> None:
        self._zygote = zygote
        self._supervisor = supervisor
        self._limits = limits
        self._talking = anyio.CancelScope()
        self._clock = CodeClock(limits.timeout, self._talking.cancel)
        self._findings = Findings()
        self._sent = False
        self._zygote_lost = False

    async def conduct(self, program: bytes, tools: Mapping[str, Tool]) -> Execution:
        """See the execution through; when this returns or raises, nothing of it is left.

        Raises:
            InfrastructureError: the sandbox failed, or the zygote died.
            Exception: whatever a tool raised that was not a ToolError.
        """
        with self._supervisor.take_over(self._talking.cancel) as end, self._zygote.mourning(self._lose_zygote):
            channel = FrameSocket(end)
            try:
                await self._talk(channel, program, tools)
            finally:
                await self._end()
            self._findings.begun |= self._sent and not channel.was_left_unread()
        return await self._judge()

    async def _talk(self, channel: FrameSocket, program: bytes, tools: Mapping[str, Tool]) -> None:
        try:
            with self._talking:
                await self._begin(channel, program)
                await self._serve(channel, tools)
            await self._hear_out(channel)
        except ProtocolError as error:
            self._findings.attack = f"it wrote to the sandbox's own channel ({error})"

    async def _begin(self, channel: FrameSocket, program: bytes) -> None:
        """Wait until the runner is ready, and send it the code."""
        with anyio.move_on_after(_BEGIN_S) as starting:
            message = await channel.read()
            if message is None:
                await self._supervisor.over.wait()
        if starting.cancelled_caught:
            # The supervisor may be busy with a folder of the code's making, which is nobody else's concern.
            self._supervisor.kill()
            raise InfrastructureError(f"the sandbox did not start the code within {_BEGIN_S:g} s")
        if message is None:
            return
        if "problem" in message:
            raise InfrastructureError(f"the sandbox did not start the code: {message['problem']}")
        self._clock.start()
        await channel.write(program)
        self._sent = True

    async def _serve(self, channel: FrameSocket, tools: Mapping[str, Tool]) -> None:
        """Answer calls until the code has ended or has closed the channel, then wait for its processes to end."""
        calls = 0
        while (message := await channel.read()) is not None:
            self._findings.begun = True
            if "end" in message:
                self._findings.claim = Claim.parse(message)
                self._clock.stop()
                with anyio.move_on_after(_LEAVE_S):
                    await self._supervisor.over.wait()
                return
            call = ToolCall.parse(message)
            calls += 1
            if calls > _MOST_CALLS:
                self._findings.attack = f"it called tools more than {_MOST_CALLS:,} times"
                return
            asked = loop_time()
            self._clock.stop()
            answer = await call.answer(tools)
            self._clock.charge(min(loop_time() - asked, _CHARGED_S))
            self._clock.start()
            await channel.write(answer)
        await self._supervisor.over.wait()

    async def _hear_out(self, channel: FrameSocket) -> None:
        """Take what the runner said last, if the end of its process overtook it."""
        if self._clock.expired or self._findings.claim is not None or not self._supervisor.over.is_set():
            return
        with anyio.move_on_after(_DRAIN_S):
            while (message := await channel.read()) is not None:
                self._findings.begun |= self._sent
                if "end" in message:
                    self._findings.claim = Claim.parse(message)

    async def _end(self) -> None:
        """Make sure that nothing of the execution is left, by means that grow rougher."""
        self._clock.stop()
        if self._supervisor.over.is_set():
            return
        with anyio.CancelScope(shield=True):
            self._supervisor.stop()
            if await self._over_within(_STOP_S):
                return
            _log.warning("supervisor-unresponsive")
            self._supervisor.kill()
            if await self._over_within(_MOP_S):
                return
            self._zygote.destroy()
            if not await self._over_within(_MOP_S):
                _log.error("execution-not-ended")

    async def _over_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._supervisor.over.wait()
        return self._supervisor.over.is_set()

    def _lose_zygote(self) -> None:
        self._zygote_lost = True
        self._talking.cancel()

    async def _judge(self) -> Execution:
        self._findings.report = self._supervisor.report
        if self._clock.expired:
            self._findings.timeout = self._limits.timeout
        elif self._findings.attack is None and self._findings.supervisor_lost:
            # The death of the zygote has the same effect, and the news of it may come second.
            self._zygote_lost |= await self._zygote.ends_within(_NEWS_S)
        if self._zygote_lost:
            raise InfrastructureError("the sandbox's zygote ended while code was running, or the sandbox was closed")
        # Where code runs as the daemon's own user, it can kill its supervisor.
        return self._findings.execution(self._clock.seconds, may_kill_supervisor=self._zygote.first_uid is None)
