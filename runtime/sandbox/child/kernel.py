"""The few things of the Linux kernel that the standard library does not offer, or not cheaply.

What an execution costs is mostly page faults: each object that a fresh fork touches copies a page.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_MAX = os.sysconf("SC_OPEN_MAX")

# Without types of arguments or the number of an error, which touch five times as many pages. All are small numbers.
_libc = ctypes.PyDLL(None)
_libc_prctl = _libc.prctl


def _prctl(option: int, value: int) -> None:
    if _libc_prctl(option, value, 0, 0, 0):
        raise OSError(f"the kernel refused prctl({option}, {value})")


def die_with_parent(number: int, parent: int) -> None:
    """Have a signal sent to this process when the thread that made it ends.

    Changing the user id takes this back, so it comes after. `parent` is the process id that the caller expects;
    if it has ended already, the signal is sent now.
    """
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_inspection() -> None:
    """Keep processes of the same user from reading this one's memory and environment, or tracing it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def allow_inspection() -> None:
    """Undo forbid_inspection, which children inherit and a change of user id brings about as well."""
    _prctl(_PR_SET_DUMPABLE, 1)


def forbid_privileges() -> None:
    """Make set-user-id programs ordinary ones, for this process and all it starts."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def yield_processors(niceness: int) -> None:
    """Let other sessions go before this one.

    Where the kernel shares the processors between sessions first (autogroup), each of them counts as one process of
    this niceness, however many it has, and the niceness of those counts only among them.
    """
    # A kernel may do without, and takes ten a second from users without privileges.
    with contextlib.suppress(OSError):
        write_file("/proc/self/autogroup", str(niceness).encode())


def mapped_bytes() -> int:
    """How much memory this process has mapped."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(descriptor, 64).split()[0]) * resource.getpagesize()
    finally:
        os.close(descriptor)


def write_file(path: str, text: bytes) -> None:
    """Write to an existing file, by fewer pages touched than pathlib needs."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor above 2 that is not named."""
    edge = 3
    for descriptor in sorted(kept):
        os.closerange(edge, descriptor)
        edge = max(edge, descriptor + 1)
    os.closerange(edge, _OPEN_MAX)
