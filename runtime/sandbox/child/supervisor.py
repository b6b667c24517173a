"""A supervisor: runs the executions of one workspace one after the other, each in a fork, and leaves nothing of them.

It ends an execution when the runner has ended, when the daemon says so or closes its side of the control socket
(which the death of the daemon does as well), or when the zygote lets go of the leash or dies. It reads nothing from
the code but output. It has no other workspace: what its memory holds, the code of its next execution could find.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import sys
import types
from dataclasses import dataclass
from typing import NoReturn

from . import kernel, kin, runner
from .channel import Channel
from .confinement import Confinement
from .folders import Folders
from .identity import Identity
from .job import Job
from .output import Output
from .tools import ToolImporter
from .wakeups import Wakeups

_END_S = 5.0
_REPORT_S = 30.0
_CHUNK = 1 << 16
_MAX_REQUEST = 1 << 16
# Reads that empty a pipe as large as users without privileges can make one, 1 MiB, and some more.
_PIPEFULS = 64


@dataclass(frozen=True)
class Post:
    """Where a supervisor serves.

    `number` is the daemon's for it. `control` leads to the daemon, and `leash`, a descriptor, comes to its end when
    the zygote does. `scratch` is the folder in which those for temporary files are made, and `identity` is None where
    code runs as the daemon's own user.
    """

    number: int
    workspace: str
    control: socket.socket
    leash: int
    scratch: str
    identity: Identity | None


class Supervisor:
    """The executions of a workspace."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._wakeups = Wakeups()
        self._poll = select.poll()
        for descriptor in (post.control.fileno(), post.leash, self._wakeups.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        self._scratch = f"{post.scratch}/{post.number}"
        self._runner = 0
        self._status: int | None = None
        self._tools = ToolImporter()
        # As the code will find them, here and in _start_runner. Only the runner has the workspace in its path: what
        # code left there would be imported with this process's rights.
        os.environ["HOME"] = os.environ["PWD"] = post.workspace
        os.environ["TMPDIR"] = self._scratch
        sys.meta_path.append(self._tools)

    def serve(self) -> None:
        """Run what the daemon asks for, until it or the zygote lets go.

        Raises:
            OSError: the sandbox failed.
        """
        while (request := self._await_request()) is not None:
            self._run(*request)

    def _await_request(self) -> tuple[Job, Channel] | None:
        control = self._post.control
        while True:
            for descriptor, _event in self._poll.poll():
                if descriptor == self._post.leash:
                    return None
                if descriptor != control.fileno():
                    self._wakeups.take()
                    continue
                message, descriptors, _flags, _address = socket.recv_fds(control, _MAX_REQUEST, 1)
                if not message:
                    return None
                # Of an execution that has ended meanwhile.
                if message == b"stop":
                    continue
                if not descriptors:
                    raise OSError("no descriptor was left for the channel of an execution")
                return Job.parse(json.loads(message)), Channel(socket.socket(fileno=descriptors[0]))

    def _run(self, job: Job, channel: Channel) -> None:
        """See an execution through. What can be prepared is prepared here: a fresh fork pays more for it."""
        folders = Folders(self._post.workspace, self._scratch, self._post.identity)
        output = Output(job.output)
        pipe = self._start_runner(job, channel, folders.workspace)
        ended = self._watch(pipe, output)
        self._end()
        drain(pipe, output)
        os.close(pipe)
        output.close()
        folders.tidy()
        self._report(output, stopped=not ended)

    def _start_runner(self, job: Job, channel: Channel, workspace: int) -> int:
        pipe, written = os.pipe()
        os.set_blocking(pipe, False)
        confinement = Confinement(job, self._post.identity)
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        vars(main).update(self._tools.offer(channel, job.tools))
        random.seed()
        self._status = None
        self._runner = os.fork()
        if self._runner == 0:
            try:
                confinement.enter(workspace, written, channel.fileno())
            except OSError as error:
                runner.refuse(channel, f"the execution could not be confined: {error}")
            sys.path.insert(0, self._post.workspace)
            runner.run(channel, vars(main))
        os.close(written)
        channel.close()
        return pipe

    def _watch(self, pipe: int, output: Output) -> bool:
        """Take the output until the runner has ended; whether it has, or is to be stopped."""
        self._poll.register(pipe, select.POLLIN)
        wakeups = self._wakeups.fileno()
        piped = True
        stopped = False
        while self._status is None and not stopped:
            for descriptor, _event in self._poll.poll():
                if descriptor == pipe:
                    if not _read(pipe, output):
                        self._poll.unregister(pipe)
                        piped = False
                elif descriptor == wakeups:
                    self._wakeups.take()
                    kin.reap(self._reaped)
                else:
                    stopped = True
        if piped:
            self._poll.unregister(pipe)
        return self._status is not None

    def _reaped(self, pid: int, status: int) -> None:
        if pid == self._runner:
            self._status = status

    def _end(self) -> None:
        if not kin.reap(self._reaped):
            return
        identity = self._post.identity
        if identity is None:
            self._end_group()
            gone = kin.end_descendants((), self._reaped, _END_S)
        else:
            with identity.as_code():
                gone = kin.end_all_code(self._reaped, _END_S)
        if not gone:
            raise OSError("processes of the execution could not be ended")

    def _end_group(self) -> None:
        """Kill what has stayed in the runner's group in one call, which leaves no time to fork in."""
        # Once it has been reaped, its number could be somebody else's.
        if self._status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._runner, signal.SIGKILL)

    def _report(self, output: Output, *, stopped: bool) -> None:
        head, tail = output.head, output.tail
        report = {
            "status": self._status,
            "stopped": stopped,
            "total": output.total,
            "head": len(head),
            "tail": len(tail),
        }
        message = json.dumps(report).encode() + b"\n" + head + tail
        for start in range(0, len(message), _CHUNK):
            self._post.control.send(message[start : start + _CHUNK])


def supervise(post: Post, kept: set[int]) -> NoReturn:
    """Be a supervisor, in a fresh fork of the zygote; never returns. The descriptors of `kept` stay open."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.close_all_but({post.control.fileno(), post.leash, *kept})
        kernel.adopt_orphans()
        if post.identity is not None:
            post.identity.become_keeper()
        # The change of user id may have taken this back.
        kernel.forbid_inspection()
        post.control.settimeout(_REPORT_S)
        Supervisor(post).serve()
        status = 0
    except BaseException as error:
        tell_problem(post.control, f"the supervisor failed: {error!r}")
        raise
    finally:
        os._exit(status)


def tell_problem(control: socket.socket, problem: str) -> None:
    """Tell the daemon that there is no supervisor (any more)."""
    with contextlib.suppress(OSError):
        control.send(json.dumps({"problem": problem}).encode() + b"\n")


def drain(pipe: int, output: Output) -> None:
    """Take what is left in a pipe that does not block, though its other end may have been smuggled to a writer."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(_PIPEFULS):
            if not _read(pipe, output):
                return


def _read(pipe: int, output: Output) -> bool:
    data = os.read(pipe, _CHUNK)
    output.add(data)
    return bool(data)
