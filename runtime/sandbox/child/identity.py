"""The user ids of executions.

Each slot has two of its own: `code`, under which code runs, and `keeper`, under which its supervisor waits for it.
Code may neither signal nor trace a keeper, nor change how it is scheduled, and RLIMIT_NPROC of `code` counts code
alone. A supervisor can become root again, for the folders of the next execution; code gives that up for good.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

# A daemon takes whole blocks, so that two of them never end each other's processes.
BLOCK = 1024


@dataclass(frozen=True)
class Identity:
    """The two user ids of a slot, and those of all slots of the sandbox; group ids are the same numbers."""

    code: int
    keeper: int
    block: range

    @classmethod
    def of_slot(cls, first: int, slot: int) -> Identity:
        """The ids of a slot in the block that starts at `first`."""
        return cls(first + 2 * slot, first + 2 * slot + 1, range(first, first + BLOCK))

    def become_keeper(self) -> None:
        """Turn a privileged process into the supervisor of this identity."""
        os.setgroups([])
        os.setresgid(self.code, self.code, self.code)
        os.setresuid(self.keeper, self.keeper, 0)

    def become_code(self) -> None:
        """Turn a supervisor of this identity into its code, for good."""
        os.seteuid(0)
        os.setresuid(self.code, self.code, self.code)

    @contextlib.contextmanager
    def as_root(self) -> Iterator[None]:
        """Have a supervisor do something as root."""
        os.seteuid(0)
        try:
            yield
        finally:
            os.seteuid(self.keeper)

    @contextlib.contextmanager
    def as_code(self) -> Iterator[None]:
        """Have a supervisor do something as the code could, or to the code."""
        os.seteuid(0)
        os.seteuid(self.code)
        try:
            yield
        finally:
            os.seteuid(self.keeper)


def claim_block(first: int, count: int) -> tuple[int, socket.socket]:
    """The first user id of a block that no other sandbox on this machine holds, with what holds it.

    The block stays claimed while any process has the socket: also while supervisors of a dead daemon clean up.

    Raises:
        OSError: all blocks are claimed.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for start in range(first, first + count - BLOCK + 1, BLOCK):
        try:
            claim.bind(f"\0cso-sandbox-uids-{start}")
        except OSError:
            continue
        return start, claim
    claim.close()
    raise OSError("all blocks of user ids for executions are in use by other sandboxes on this machine")
