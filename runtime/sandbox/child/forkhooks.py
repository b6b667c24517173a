"""What modules want done in each fork, kept from the sandbox's own forks.

`threading` renews its locks there, which costs more than the fork itself. The zygote and its supervisors have one
thread, so that nobody else can hold a lock of theirs; with the forks that code makes it is another matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

_register = os.register_at_fork
_noted: list[Callable[..., Any]] = []
_released = False


def keep_back() -> None:
    """Note what the modules that are imported from now on want done in the child of a fork."""
    os.register_at_fork = _note
    _register(after_in_child=_in_child)


def release() -> None:
    """Have it done in all forks of this process from now on."""
    global _released
    _released = True
    os.register_at_fork = _register


def _note(
    *,
    before: Callable[..., Any] | None = None,
    after_in_parent: Callable[..., Any] | None = None,
    after_in_child: Callable[..., Any] | None = None,
) -> None:
    if after_in_child is not None:
        _noted.append(after_in_child)
    # What is done before a fork is undone after it, so these stay together.
    for name, function in (("before", before), ("after_in_parent", after_in_parent)):
        if function is not None:
            _register(**{name: function})


def _in_child() -> None:
    if _released:
        for function in _noted:
            function()
