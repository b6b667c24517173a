"""The supervisor of one execution: starts its runner, drains its output, ends all its processes, reports.

It ends the execution when the runner has ended, when the daemon closes its side of the control socket (which the
death of the daemon does as well), or on SIGTERM. It reads nothing from the code but output.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from typing import NoReturn

from . import kernel, kin, runner, tree
from .confinement import confine
from .identity import BLOCK
from .job import Job
from .output import Output

_END_S = 5.0
_CLEAN_S = 2.0
_REPORT_S = 30.0
_CHUNK = 1 << 16


class Wakeups:
    """Signals as bytes on a descriptor, so that one poll waits for them and for everything else.

    Only those come that have a handler in Python; the zygote sets them, and its forks inherit them.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._read

    def take(self) -> set[int]:
        """The signals that came since the last time."""
        with contextlib.suppress(BlockingIOError):
            return set(os.read(self._read, 4096))
        return set()


class Supervisor:
    """One execution under way."""

    def __init__(self, job: Job, control: socket.socket) -> None:
        self._job = job
        self._control = control
        self._output = Output(job.output)
        self._wakeups = Wakeups()
        self._runner = 0
        self._status: int | None = None
        self._stopped = False

    def run(self, channel: socket.socket, zygote: int) -> None:
        """See the execution through."""
        job = self._job
        workspace = tree.open_folder(job.workspace)
        os.mkdir(job.scratch, 0o700)  # noqa: PTH102 - no pathlib in what every execution runs
        scratch = tree.open_folder(job.scratch)
        if job.identity is not None:
            first = job.identity.code - 2 * job.slot
            tree.hand_over(workspace, job.identity.code, range(first, first + BLOCK))
            os.fchown(scratch, job.identity.code, job.identity.code)
            job.identity.become_keeper()
        # Changing the user id would have taken this back.
        kernel.die_with_parent(signal.SIGTERM, zygote)
        kernel.forbid_inspection()
        pipe = self._start_runner(workspace, channel)
        self._watch(pipe)
        gone = self._end()
        self._drain(pipe)
        tree.make_readable(workspace, _CLEAN_S)
        self._report(None if gone else "processes of the execution could not be ended")
        tree.empty(scratch, _CLEAN_S)

    def _start_runner(self, workspace: int, channel: socket.socket) -> int:
        pipe, written = os.pipe()
        supervisor = os.getpid()
        self._runner = os.fork()
        if self._runner == 0:
            try:
                confine(self._job, workspace, written, channel.fileno(), supervisor)
            except OSError as error:
                runner.refuse(channel, f"the execution could not be confined: {error}")
            runner.run(channel, self._job.workspace)
        os.close(written)
        channel.close()
        os.set_blocking(pipe, False)
        return pipe

    def _watch(self, pipe: int) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeups.fileno(), select.POLLIN)
        poll.register(pipe, select.POLLIN)
        while self._status is None:
            for descriptor, _event in poll.poll():
                if descriptor == pipe:
                    if not self._read(pipe):
                        poll.unregister(pipe)
                elif descriptor == self._control.fileno() or signal.SIGTERM in self._wakeups.take():
                    self._stopped = True
                    return
                else:
                    kin.reap(self._reaped)

    def _reaped(self, pid: int, status: int) -> None:
        if pid == self._runner:
            self._status = status

    def _end(self) -> bool:
        if self._job.identity is not None:
            return kin.end_all_code(self._reaped, _END_S)
        return kin.end_descendants((), self._reaped, _END_S)

    def _read(self, pipe: int) -> bool:
        data = os.read(pipe, _CHUNK)
        self._output.add(data)
        return bool(data)

    def _drain(self, pipe: int) -> None:
        # Nobody is left to write, unless the pipe was smuggled out: then EAGAIN ends this.
        with contextlib.suppress(BlockingIOError):
            while self._read(pipe):
                pass
        self._output.close()

    def _report(self, problem: str | None) -> None:
        head, tail = self._output.head, self._output.tail
        report = {
            "status": self._status,
            "stopped": self._stopped,
            "problem": problem,
            "total": self._output.total,
            "head": len(head),
            "tail": len(tail),
        }
        self._control.settimeout(_REPORT_S)
        self._control.sendall(json.dumps(report).encode() + b"\n" + head + tail)


def supervise(job: Job, control: socket.socket, channel: socket.socket, claim: set[int], zygote: int) -> NoReturn:
    """Be the supervisor of a job, in a fresh fork of the zygote (a process id); never returns.

    The descriptors of `claim` stay open: they hold the user ids.
    """
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        kernel.close_all_but({control.fileno(), channel.fileno(), *claim})
        kernel.adopt_orphans()
        Supervisor(job, control).run(channel, zygote)
        status = 0
    except BaseException as error:
        tell_problem(control, f"the supervisor failed: {error!r}")
        raise
    finally:
        os._exit(status)


def tell_problem(control: socket.socket, problem: str) -> None:
    """Report to the daemon that an execution could not be had."""
    with contextlib.suppress(OSError):
        control.sendall(json.dumps({"problem": problem}).encode() + b"\n")
