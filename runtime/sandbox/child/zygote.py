"""The zygote: a warm interpreter that forks a supervisor for each workspace that the daemon names.

It has one thread and trusts nobody but the daemon. Its control socket carries one request a message, that for a
supervisor with a descriptor: the supervisor's own control socket. The zygote keeps it until the supervisor has ended
and nothing of an execution is left, so that the daemon sees the end of that socket then and not before.
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
from typing import Any

from . import kernel, kin, leftovers, runner, tree
from .confinement import NICENESS
from .identity import Identity, claim_block
from .supervisor import Post, supervise, tell_problem
from .wakeups import Wakeups

_END_S = 15.0
_MOP_S = 5.0
_CLEAN_S = 5.0
_SWEEP_S = 60.0
_MAX_REQUEST = 1 << 16
# Imported before the forks, so that code need not wait for what code often imports.
_WARM = """
ast base64 bisect calendar collections.abc copy csv dataclasses datetime decimal enum fractions functools glob
heapq itertools json math operator os pathlib pprint random re shutil statistics string struct subprocess tempfile
textwrap threading time traceback typing unicodedata urllib.parse
"""


class Zygote:
    """Forks supervisors and outlives them."""

    def __init__(self, control: socket.socket, scratch: str) -> None:
        self._control = control
        self._scratch = scratch
        leftovers.hold(scratch)  # closed by nothing but our end
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._wakeups = Wakeups()
        self._leash, self._leash_held = os.pipe()
        self._posts: dict[int, Post] = {}
        self._first_uid: int | None = None
        self._claim: socket.socket | None = None

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
        runner.prepare()
        # What exists now stays as it is in every fork: looking through it for garbage would only copy its pages.
        gc.collect()
        gc.freeze()

    def sweep(self) -> None:
        """Remove what zygotes that were killed have left, in a fork that ends by itself, or with this."""
        zygote = os.getpid()
        if os.fork():
            return
        status = 1
        try:
            kernel.die_with_parent(signal.SIGKILL, zygote)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            kernel.close_all_but(set())
            leftovers.sweep(os.path.dirname(self._scratch), _SWEEP_S)  # noqa: PTH120 - no pathlib here
            status = 0
        finally:
            os._exit(status)

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
        os.close(self._leash_held)
        self._await_supervisors(_END_S)
        for pid in self._posts:
            os.kill(pid, signal.SIGKILL)
        self._await_supervisors(_MOP_S)
        _remove(self._scratch)

    def _await_supervisors(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while kin.reap(self._reaped) and self._posts and time.monotonic() < deadline:
            select.select([self._wakeups], [], [], 0.1)
            self._wakeups.take()

    def _take_request(self) -> bool:
        message, descriptors, _flags, _address = socket.recv_fds(self._control, _MAX_REQUEST, 1)
        if not message:
            return False
        request = json.loads(message)
        if "kill" in request:
            self._kill(request["kill"])
        elif descriptors:
            control = socket.socket(fileno=descriptors[0])
            control.set_inheritable(False)
            self._fork(request, control)
        # Without one, out of descriptors: the daemon sees that nobody holds the other end.
        return True

    def _fork(self, request: dict[str, Any], control: socket.socket) -> None:
        identity = None if self._first_uid is None else Identity.of_slot(self._first_uid, request["slot"])
        post = Post(request["supervisor"], request["workspace"], control, self._leash, self._scratch, identity)
        try:
            pid = os.fork()
        except OSError as error:
            tell_problem(control, f"no process could be made: {error}")
            control.close()
            return
        if pid == 0:
            supervise(post, set() if self._claim is None else {self._claim.fileno()})
        self._posts[pid] = post

    def _kill(self, number: int) -> None:
        for pid, post in self._posts.items():
            if post.number == number:
                os.kill(pid, signal.SIGKILL)

    def _reaped(self, pid: int, status: int) -> None:
        post = self._posts.pop(pid, None)
        if post is None:
            return
        if status != 0:
            self._mop(post.identity)
        _remove(f"{self._scratch}/{post.number}")
        post.control.close()

    def _mop(self, identity: Identity | None) -> None:
        """End what a supervisor that was killed has left to us."""
        if identity is None:
            kin.end_descendants(self._posts.keys(), self._reaped, _MOP_S)
            return
        pid = os.fork()
        if pid == 0:
            identity.become_keeper()
            with identity.as_code():
                kin.kill_all_code()
            os._exit(0)
        os.waitpid(pid, 0)


def _remove(path: str) -> None:
    """Remove a folder of temporary files, if it is there and little enough is in it."""
    with contextlib.suppress(OSError):
        tree.remove(path, _CLEAN_S)


def main(settings: dict[str, Any]) -> None:
    """Be the zygote of a daemon; `settings` come from its command line."""
    control = socket.socket(fileno=settings["control"])
    control.set_inheritable(False)
    try:
        kernel.forbid_inspection()
        kernel.adopt_orphans()
        kernel.forbid_privileges()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o022)
        kernel.yield_processors(NICENESS)
        zygote = Zygote(control, settings["scratch"])
        kernel.die_with_parent(signal.SIGTERM, settings["daemon"])
        if settings["uids"] is None:
            kin.end_marked(f"CSO_SANDBOX={settings['marker']}")
        else:
            zygote.claim(*settings["uids"])
        zygote.warm_up()
        zygote.sweep()
    except BaseException:
        control.send(json.dumps({"problem": traceback.format_exc()}).encode())
        raise
    zygote.serve()
    zygote.close()
