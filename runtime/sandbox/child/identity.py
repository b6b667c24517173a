"""The user ids of executions.

Each execution under way has two of its own: `code`, under which the code runs, and `keeper`, under which its
supervisor runs. With real id `keeper` and effective id `code` the supervisor may signal the code and may become it,
while the code may neither signal nor trace the supervisor; and RLIMIT_NPROC of `code` counts the code alone.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

# A daemon takes whole blocks, so that two of them never end each other's processes.
BLOCK = 1024


@dataclass(frozen=True)
class Identity:
    """The two user ids of one execution; group ids are the same numbers."""

    code: int
    keeper: int

    @classmethod
    def of_slot(cls, first: int, slot: int) -> Identity:
        """The ids of a slot in the block that starts at `first`."""
        return cls(first + 2 * slot, first + 2 * slot + 1)

    def become_keeper(self) -> None:
        """Turn a privileged process into the supervisor of this identity."""
        os.setgroups([])
        os.setresgid(self.code, self.code, self.code)
        os.setresuid(self.keeper, self.code, self.keeper)

    def become_code(self) -> None:
        """Turn a supervisor of this identity into its code, for good."""
        os.setresuid(self.code, self.code, self.code)


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
