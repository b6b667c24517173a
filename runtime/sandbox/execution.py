"""What it means to run action code: the limits it gets, how it can end, and who can run it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from store.jsontypes import JsonValue

# Called in the daemon with the positional and keyword arguments that the code gave. A ToolError is raised again in
# the code; any other exception ends the execution and reaches the caller of run().
Tool = Callable[..., Awaitable[JsonValue]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the code of one execution may use.

    `timeout` is in seconds of wall time, those in which a tool works for the code not counted; `memory_mb` (MiB) and
    `open_files` hold for each process; `file_mb` (MiB) for each file; `processes` counts threads too. Of the output
    `output_bytes` are kept.
    """

    timeout: float = 200.0
    memory_mb: int = 2048
    output_bytes: int = 65536
    file_mb: int = 256
    processes: int = 64
    open_files: int = 256


class Ending(StrEnum):
    """How an execution ended."""

    COMPLETED = "completed"  # the code ran to its last line
    EXCEPTION = "exception"  # an exception was not caught, or the code is no Python
    EXITED = "exited"  # the code ended itself: sys.exit, os._exit, or a signal that was its own doing
    TIMEOUT = "timeout"  # it used up its time
    MEMORY = "memory"  # it asked for more memory than it may have
    KILLED = "killed"  # it attacked the sandbox, and was stopped for that


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What came of running code.

    `output` is what was printed, to both streams and in order, with a marker where its middle was left out. `error`
    says why the code did not complete, None if it did: a traceback of the code's own lines, or one line. `seconds` is
    the time that counts against the timeout.
    """

    output: str
    error: str | None
    ending: Ending
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the code ran to its end."""
        return self.ending is Ending.COMPLETED


class Sandbox(Protocol):
    """Runs code that nobody trusts."""

    def expect(self, workspace: Path, *, tools: Collection[str], limits: Limits) -> None:
        """Code is about to be asked for that will run in a folder: make ready for it, while there is time.

        Nothing depends on it. It is forgotten where the code does not come, or comes with other tools or limits or to
        a folder that was made anew. In a folder that stays nothing may be changed until the code has come.
        """
        ...

    def forget(self, workspace: Path) -> None:
        """No more code will run in a folder: let go of what was kept for it."""
        ...

    async def run(self, code: str, *, workspace: Path, tools: Mapping[str, Tool], limits: Limits) -> Execution:
        """Run Python code in a folder, with tools as functions among its globals.

        Whatever the code does ends in an Execution, and when that is returned no process of the code is left. One
        folder is used by one execution at a time.

        Raises:
            InfrastructureError: the sandbox itself failed; nothing can be said about the code.
            ConfigError: the code could not reach the folder.
            Exception: whatever a tool raised that was not a ToolError.
        """
        ...
