"""What a runner gives up before it runs code that nobody trusts."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource

from . import kernel
from .identity import Identity
from .job import MIB, Job

# Left above the soft limit on memory, so that running out of it can still be told.
_MEMORY_RESERVE = 64 * MIB
# The daemon and the supervisors share the processors with the code of all and should not wait for it.
NICENESS = 10


class Confinement:
    """Prepared by a supervisor, to whom that costs less than to its fresh fork, which enters it."""

    def __init__(self, job: Job, identity: Identity | None) -> None:
        self._identity = identity
        self._supervisor = os.getpid()
        memory = kernel.mapped_bytes() + job.memory
        self._limits = (
            _limit(resource.RLIMIT_AS, memory, memory + _MEMORY_RESERVE),
            _limit(resource.RLIMIT_FSIZE, job.file),
            _limit(resource.RLIMIT_NOFILE, job.open_files),
            _limit(resource.RLIMIT_NPROC, job.processes),
        )

    def enter(self, workspace: int, output: int, channel: int) -> None:
        """Turn a fork of the supervisor into a process fit for the code of the job; the arguments are descriptors.

        Raises:
            OSError: a step was refused; the code must not run.
        """
        # Beneath the enumerations of `signal`, which would copy many pages.
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        if self._identity is not None:
            self._identity.become_code()
        # A change of user id would have taken both back.
        kernel.allow_inspection()
        kernel.die_with_parent(_signal.SIGKILL, self._supervisor)
        # Not a session, which would be one more that the kernel shares the processors between, whatever its niceness.
        os.setpgid(0, 0)
        os.fchdir(workspace)
        os.nice(NICENESS)
        # Flags and locks of what is inherited would be shared with all executions.
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        kernel.close_all_but({channel})
        _prefer_as_victim()
        for kind, limits in self._limits:
            resource.setrlimit(kind, limits)


def _prefer_as_victim() -> None:
    """When the machine runs out of memory, the code goes first."""
    try:  # noqa: SIM105 - contextlib would copy more pages than the rest of this
        kernel.write_file("/proc/self/oom_score_adj", b"1000")
    except OSError:
        pass


def _limit(kind: int, soft: int, hard: int | None = None) -> tuple[int, tuple[int, int]]:
    """A limit and its values, as far as they are ours to give."""
    ceiling = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    return kind, (soft, hard)
