"""The daemon's end of a supervisor: giving it executions, and knowing when nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import anyio
import orjson

from runtime.errors import InfrastructureError
from runtime.sandbox.execution import Limits
from runtime.sandbox.footing import no_workspace
from runtime.sandbox.report import Report
from runtime.sandbox.zygote import ZygoteHandle, socket_pair
from store.jsontypes import JsonValue

# A report of more than its output is no report.
_MAX_HEADER = 4096
_PACKET = 1 << 16
# A supervisor that had nothing to do for so long gives its memory back.
_IDLE_S = 60.0
# One that awaits code has it to end and to tidy up first, see session.py.
_LEAVE_S = 12.0


class Terms(NamedTuple):
    """What is settled of an execution before there is code: its folder, the names of its tools, and its limits.

    `folder` is the device and the inode of the workspace, which may have been made anew under its name.
    """

    folder: tuple[int, int]
    tools: tuple[str, ...]
    limits: Limits

    @classmethod
    def of(cls, workspace: Path, tools: Collection[str], limits: Limits) -> Terms:
        """The terms of an execution in a folder.

        Raises:
            InfrastructureError: there is no such folder.
        """
        try:
            status = os.stat(workspace)  # noqa: PTH116 - for each execution, and pathlib is slow
        except OSError as error:
            raise no_workspace(workspace, error) from error
        return cls((status.st_dev, status.st_ino), tuple(tools), limits)

    def job(self, others: int) -> dict[str, JsonValue]:
        """What a supervisor is told of it; see SupervisorHandle.begin."""
        return {
            "tools": list(self.tools),
            "memory_mb": self.limits.memory_mb,
            "output_bytes": self.limits.output_bytes,
            "file_mb": self.limits.file_mb,
            "processes": self.limits.processes + others,
            "open_files": self.limits.open_files,
        }


class SupervisorHandle:
    """A supervisor, which runs the executions of a workspace.

    An execution is `over` when nothing of it is left: with its report, else when the other end of the control socket
    closes, as it also does when the supervisor is `gone`. It may begin before there is code: its runner waits.
    """

    def __init__(self, zygote: ZygoteHandle, number: int, workspace: Path, control: socket.socket) -> None:
        self.workspace = workspace
        self._zygote = zygote
        self.report: Report | None = None
        self.over = anyio.Event()
        self.gone = anyio.Event()
        self._number = number
        self._control = control
        self._channel: socket.socket | None = None
        self._terms: Terms | None = None
        self._data = bytearray()
        self._room = _MAX_HEADER
        self._ended: Callable[[], None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._retired = False
        asyncio.get_running_loop().add_reader(control.fileno(), self._readable)

    @classmethod
    async def start(cls, zygote: ZygoteHandle, number: int, *, slot: int, workspace: Path) -> SupervisorHandle:
        """Have a zygote fork a supervisor; of those before in its slot nothing may be left.

        Raises:
            InfrastructureError: the zygote is dead or does not listen, or there are too many open files.
        """
        near, far = socket_pair(socket.SOCK_SEQPACKET)
        try:
            with far:
                await zygote.fork(_request(number, slot, workspace), far)
        except BaseException:
            near.close()
            raise
        return cls(zygote, number, workspace, near)

    @classmethod
    def start_now(cls, zygote: ZygoteHandle, number: int, *, slot: int, workspace: Path) -> SupervisorHandle | None:
        """The same without a wait, None if there would be one, or no supervisor.

        Raises:
            InfrastructureError: there are too many open files.
        """
        near, far = socket_pair(socket.SOCK_SEQPACKET)
        with far:
            if zygote.fork_now(_request(number, slot, workspace), far):
                return cls(zygote, number, workspace, near)
        near.close()
        return None

    @property
    def serving(self) -> bool:
        """Whether it can be given an execution."""
        return not (self._retired or self.gone.is_set() or self._zygote.dead)

    def begin(self, terms: Terms, *, others: int) -> None:
        """Have a runner made that waits for code; `others` are the processes that the kernel counts with the code's.

        Raises:
            InfrastructureError: it takes no execution.
        """
        self._stay()
        self._drop_channel()
        self._data.clear()
        self._room = terms.limits.output_bytes + _MAX_HEADER
        self.report = None
        self.over = anyio.Event()
        near, far = socket_pair()
        try:
            with far:
                socket.send_fds(self._control, [orjson.dumps(terms.job(others))], [far.fileno()])
        except OSError as error:
            near.close()
            raise InfrastructureError(f"the sandbox's supervisor takes no more work: {error!r}") from error
        self._channel, self._terms = near, terms

    def awaits_code(self) -> bool:
        """Whether an execution has begun that has got no code yet."""
        return self._channel is not None and not self.over.is_set()

    def suits(self, terms: Terms) -> bool:
        """Whether it does not await code on other terms."""
        return self._terms == terms or not self.awaits_code()

    def take_over(self, ended: Callable[[], None]) -> socket.socket:
        """The channel of the runner that awaits code; from now on a function is called when the execution is over."""
        self._stay()
        channel, self._channel = self._channel, None
        assert channel is not None  # it has begun
        self._ended = ended
        return channel

    def stop(self) -> None:
        """Have the execution ended now."""
        if not self.over.is_set():
            with contextlib.suppress(OSError):  # it is gone, which the next read tells
                self._control.send(b"stop")

    def kill(self) -> None:
        """Have the zygote kill it, because it does not answer, and end what that leaves behind."""
        self._retired = True
        self._zygote.kill_supervisor(self._number)

    def rest(self) -> None:
        """It has nothing to do; after a time without work it is let go."""
        self._stay()
        if self.serving:
            self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self.retire)

    def retire(self) -> None:
        """Let go of it, between executions."""
        if self.serving:
            self._retired = True
            self._control.shutdown(socket.SHUT_WR)

    async def leave(self) -> None:
        """Let go of it, and wait until it is gone.

        Raises:
            InfrastructureError: it stays.
        """
        self.retire()
        with anyio.move_on_after(_LEAVE_S):
            await self.gone.wait()
            return
        self.kill()
        raise InfrastructureError(f"a supervisor of the sandbox did not end within {_LEAVE_S:g} s")

    def close(self) -> None:
        """Forget it, because its zygote has ended."""
        self._lose()

    def _readable(self) -> None:
        try:
            data = self._control.recv(_PACKET)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
        elif not self._retired:
            self._take(data)

    def _take(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > self._room:
            self.kill()
            return
        self.report = Report.parse(bytes(self._data))
        if self.report is not None and self.report.problem is None:
            self._finish()

    def _lose(self) -> None:
        if self.gone.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._stay()
        self._drop_channel()
        self.gone.set()
        self._finish()

    def _finish(self) -> None:
        self.over.set()
        if self._ended is not None:
            self._ended()
            self._ended = None

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _request(number: int, slot: int, workspace: Path) -> dict[str, JsonValue]:
    return {"supervisor": number, "slot": slot, "workspace": str(workspace)}
