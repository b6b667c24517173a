"""What a runner gives up before it runs code that nobody trusts."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

from . import kernel
from .job import MIB, Job

# Left above the soft limit on memory, so that running out of it can still be told.
_MEMORY_RESERVE = 64 * MIB
# The daemon shares the processors with the code and should not wait for it.
_NICENESS = 5


def confine(job: Job, workspace: int, output: int, channel: int, supervisor: int) -> None:
    """Turn a fresh fork of the supervisor into a process fit for the code of a job.

    Raises:
        OSError: a step was refused; the code must not run.
    """
    signal.set_wakeup_fd(-1)
    kernel.restore_signal(signal.SIGCHLD)
    kernel.restore_signal(signal.SIGTERM)
    if job.identity is not None:
        job.identity.become_code()
    kernel.forbid_privileges()
    kernel.allow_inspection()
    kernel.die_with_parent(signal.SIGKILL, supervisor)
    os.setsid()
    os.fchdir(workspace)
    os.umask(0o022)
    os.nice(_NICENESS)
    os.dup2(output, 1)
    os.dup2(output, 2)
    kernel.close_all_but({channel})
    _prefer_as_victim()
    _set_limits(job)
    _set_environment(job)


def _prefer_as_victim() -> None:
    """When the machine runs out of memory, the code goes first."""
    with contextlib.suppress(OSError):
        kernel.write_file("/proc/self/oom_score_adj", b"1000")


def _set_limits(job: Job) -> None:
    _limit(resource.RLIMIT_AS, job.mapped + job.memory, job.mapped + job.memory + _MEMORY_RESERVE)
    _limit(resource.RLIMIT_FSIZE, job.file)
    _limit(resource.RLIMIT_NOFILE, job.open_files)
    _limit(resource.RLIMIT_NPROC, job.processes)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    ceiling = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def _set_environment(job: Job) -> None:
    """Add what differs between executions to the zygote's environment, which holds nothing else."""
    os.environ["HOME"] = os.environ["PWD"] = job.workspace
    os.environ["TMPDIR"] = job.scratch
