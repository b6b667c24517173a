"""Keeping the daemon's own process from being read by the code that it runs."""

from __future__ import annotations

from runtime.sandbox.child.kernel import forbid_inspection


def guard_own_process() -> None:
    """Keep other processes of this user from reading this one's environment and memory; to be called at start.

    Keys stand in the environment. Code that runs as another user cannot read it anyway; code of an ordinary user's
    daemon runs as that same user. It also means that this process leaves no core dump.
    """
    forbid_inspection()
