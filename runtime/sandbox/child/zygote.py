"""The zygote: a warm interpreter that forks a supervisor for each execution that the daemon asks for.

It has one thread and trusts nobody but the daemon. Its control socket carries one request a message, a run's with two
descriptors: the supervisor's control socket and the runner's channel. The zygote keeps the first until the supervisor
has ended and nothing of the execution is left, so that the daemon sees the end of that socket then and not before.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import kernel, kin, tree
from .identity import Identity, claim_block
from .job import Job
from .supervisor import Wakeups, supervise, tell_problem

_END_S = 15.0
_MOP_S = 5.0
_CLEAN_S = 5.0
_COUNT_EVERY_S = 30.0
_MAX_REQUEST = 1 << 16
# What executions under way beside this one may have, where the kernel counts all processes of a user together.
_NEIGHBOURS = 1024
# Imported before the forks, so that code need not wait for what code often imports.
_WARM = """
ast base64 bisect calendar collections.abc copy csv dataclasses datetime decimal enum fractions functools glob hashlib
heapq itertools json math operator os pathlib pprint random re shutil statistics string struct subprocess tempfile
textwrap threading time traceback typing unicodedata urllib.parse
"""


@dataclass
class _Execution:
    job: Job
    control: socket.socket


class Zygote:
    """Forks supervisors and outlives them."""

    def __init__(self, control: socket.socket, scratch: str) -> None:
        self._control = control
        self._scratch = scratch
        self._mapped = 0
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._wakeups = Wakeups()
        self._executions: dict[int, _Execution] = {}
        self._first_uid: int | None = None
        self._claim: socket.socket | None = None
        self._others = 0
        self._counted = -_COUNT_EVERY_S

    def claim(self, first: int, count: int) -> None:
        """Take a block out of a range of user ids, so that each execution has its own.

        Raises:
            OSError: all are taken.
        """
        self._first_uid, self._claim = claim_block(first, count)

    def warm_up(self) -> None:
        """Get ready what every fork starts with."""
        for name in _WARM.split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        sys.path.pop(0)
        # What exists now stays as it is in every fork: looking through it for garbage would only copy its pages.
        gc.collect()
        gc.freeze()
        self._mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def serve(self) -> None:
        """Work until the daemon closes the control socket or is gone, then end what runs."""
        self._control.send(json.dumps({"ready": True, "first_uid": self._first_uid}).encode())
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeups.fileno(), select.POLLIN)
        while True:
            for descriptor, _event in poll.poll():
                if descriptor != self._control.fileno():
                    if signal.SIGTERM in self._wakeups.take():
                        return
                    kin.reap(self._reaped)
                elif not self._take_request():
                    return

    def close(self) -> None:
        """End every execution, and wait until nothing is left of them."""
        for pid in self._executions:
            os.kill(pid, signal.SIGTERM)
        self._await_executions(_END_S)
        for pid in self._executions:
            os.kill(pid, signal.SIGKILL)
        self._await_executions(_MOP_S)
        with contextlib.suppress(OSError):
            folder = tree.open_folder(self._scratch)
            tree.empty(folder, _CLEAN_S)
            Path(self._scratch).rmdir()

    def _await_executions(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while kin.reap(self._reaped) and self._executions and time.monotonic() < deadline:
            select.select([self._wakeups], [], [], 0.1)
            self._wakeups.take()

    def _take_request(self) -> bool:
        message, descriptors, _flags, _address = socket.recv_fds(self._control, _MAX_REQUEST, 2)
        if not message:
            return False
        request = json.loads(message)
        received = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for connection in received:
            connection.set_inheritable(False)
        if "kill" in request:
            self._kill(request["kill"])
        elif len(received) == 2:
            self._fork(request, *received)
        else:
            # Out of descriptors: the daemon sees that nobody holds the other ends.
            for connection in received:
                connection.close()
        return True

    def _fork(self, request: dict[str, Any], control: socket.socket, channel: socket.socket) -> None:
        job = Job.parse(request, self._scratch, self._mapped, self._first_uid)
        if job.identity is None:
            job = self._with_room(job)
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            tell_problem(control, f"no process could be made: {error}")
            control.close()
        else:
            if pid == 0:
                claim = set() if self._claim is None else {self._claim.fileno()}
                supervise(job, control, channel, claim, zygote)
            self._executions[pid] = _Execution(job, control)
        channel.close()

    def _with_room(self, job: Job) -> Job:
        now = time.monotonic()
        if now - self._counted > _COUNT_EVERY_S:
            self._counted = now
            self._others = kin.count_tasks(os.getuid())
        return job.allowing(self._others + _NEIGHBOURS + job.processes)

    def _kill(self, number: int) -> None:
        for pid, execution in self._executions.items():
            if execution.job.number == number:
                os.kill(pid, signal.SIGKILL)

    def _reaped(self, pid: int, status: int) -> None:
        execution = self._executions.pop(pid, None)
        if execution is None:
            return
        if status != 0:
            self._mop(execution.job.identity)
        with contextlib.suppress(OSError):
            Path(execution.job.scratch).rmdir()
        execution.control.close()

    def _mop(self, identity: Identity | None) -> None:
        """End what a supervisor that was killed has left to us."""
        if identity is None:
            kin.end_descendants(self._executions.keys(), self._reaped, _MOP_S)
            return
        pid = os.fork()
        if pid == 0:
            identity.become_keeper()
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            os._exit(0)
        os.waitpid(pid, 0)


def main(settings: dict[str, Any]) -> None:
    """Be the zygote of a daemon; `settings` come from its command line."""
    control = socket.socket(fileno=settings["control"])
    control.set_inheritable(False)
    try:
        kernel.forbid_inspection()
        kernel.adopt_orphans()
        zygote = Zygote(control, settings["scratch"])
        kernel.die_with_parent(signal.SIGTERM, settings["daemon"])
        if settings["uids"] is None:
            kin.end_marked(f"CSO_SANDBOX={settings['marker']}")
        else:
            zygote.claim(*settings["uids"])
        zygote.warm_up()
    except BaseException:
        control.send(json.dumps({"problem": traceback.format_exc()}).encode())
        raise
    zygote.serve()
    zygote.close()
