"""What the daemon tells the zygote of an execution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .identity import Identity

MIB = 1 << 20


@dataclass(frozen=True)
class Job:
    """One execution: where it works, as whom, and within which limits (bytes, numbers).

    `mapped` are the bytes of memory that the interpreter has mapped before any code; they come on top of `memory`.
    """

    number: int
    slot: int
    workspace: str
    scratch: str
    identity: Identity | None
    mapped: int
    memory: int
    output: int
    file: int
    processes: int
    open_files: int

    @classmethod
    def parse(cls, request: dict[str, Any], scratch: str, mapped: int, first_uid: int | None) -> Job:
        """The job that a request of the daemon describes."""
        limits = request["limits"]
        slot = int(request["slot"])
        return cls(
            number=int(request["run"]),
            slot=slot,
            workspace=request["workspace"],
            scratch=f"{scratch}/{request['run']}",
            identity=None if first_uid is None else Identity.of_slot(first_uid, slot),
            mapped=mapped,
            memory=limits["memory_mb"] * MIB,
            output=limits["output_bytes"],
            file=limits["file_mb"] * MIB,
            processes=limits["processes"],
            open_files=limits["open_files"],
        )

    def allowing(self, processes: int) -> Job:
        """The same job with another limit on processes."""
        return replace(self, processes=processes)
