"""What the daemon tells a supervisor of an execution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

MIB = 1 << 20


class Job(NamedTuple):
    """One execution: the names of its tools, and its limits in bytes and numbers.

    `memory` comes on top of what the interpreter has mapped before any code.
    """

    tools: Sequence[str]
    memory: int
    output: int
    file: int
    processes: int
    open_files: int

    @classmethod
    def parse(cls, request: dict[str, Any]) -> Job:
        """The job that a request of the daemon describes."""
        return cls(
            tools=request["tools"],
            memory=request["memory_mb"] * MIB,
            output=request["output_bytes"],
            file=request["file_mb"] * MIB,
            processes=request["processes"],
            open_files=request["open_files"],
        )
