"""From what runner, supervisor and clock say to how an execution ended."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from runtime.errors import InfrastructureError
from runtime.sandbox.execution import Ending, Execution
from runtime.sandbox.frames import ProtocolError
from runtime.sandbox.report import Report
from store.jsontypes import JsonValue

# The endings that a runner may claim; the others are not for the code to say.
_CLAIMED = frozenset({Ending.COMPLETED, Ending.EXCEPTION, Ending.EXITED, Ending.MEMORY})


@dataclass(frozen=True, slots=True)
class Claim:
    """The runner's own word for how its code ended."""

    ending: Ending
    error: str | None

    @classmethod
    def parse(cls, message: dict[str, JsonValue]) -> Claim:
        """The claim that a message makes.

        Raises:
            ProtocolError: it makes none that a runner may make.
        """
        ending, error = message["end"], message.get("error")
        if not isinstance(ending, str) or ending not in _CLAIMED or not isinstance(error, str | None):
            raise ProtocolError("an end that means nothing")
        if (error is None) != (ending == Ending.COMPLETED):
            raise ProtocolError("an end without its error")
        return cls(Ending(ending), error)


@dataclass(slots=True)
class Findings:
    """What is known of an execution once nothing of it is left.

    `begun` says whether the runner took the code, `attack` what the code did that it may not do, `timeout` (seconds)
    that it used up its time.
    """

    begun: bool = False
    claim: Claim | None = None
    report: Report | None = None
    attack: str | None = None
    timeout: float | None = None

    @property
    def supervisor_lost(self) -> bool:
        """Whether the supervisor was ended from outside before it saw the code end, or before it could say so."""
        return self.report is None or (self.claim is None and self.report.stopped)

    def execution(self, seconds: float, *, may_kill_supervisor: bool) -> Execution:
        """How it ended.

        Raises:
            InfrastructureError: the sandbox failed, and the code cannot have been the cause.
        """
        report = self.report
        if report is not None and report.problem is not None:
            raise InfrastructureError(f"the sandbox failed: {report.problem}")
        if not self.begun:
            raise InfrastructureError("the sandbox's processes were ended before they took the code")
        ending, error = self._ending()
        if ending is Ending.KILLED and self.attack is None and not may_kill_supervisor:
            raise InfrastructureError("the supervisor of an execution was ended by somebody else")
        return Execution(output=report.output() if report else "", error=error, ending=ending, seconds=seconds)

    def _ending(self) -> tuple[Ending, str | None]:
        if self.timeout is not None:
            return Ending.TIMEOUT, f"The code was stopped: it ran for more than {self.timeout:g} s."
        if self.attack is not None:
            return Ending.KILLED, f"The code was stopped: {self.attack}."
        if self.report is None or self.supervisor_lost:
            return Ending.KILLED, "The code was stopped: it interfered with the process that supervises it."
        if self.claim is not None:
            return self.claim.ending, self.claim.error
        return Ending.EXITED, _describe(self.report.status)


def _describe(status: int | None) -> str:
    if status is None:
        return "The code ended its process before its last line."
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"The code ended its process before its last line, with exit status {code} (os._exit)."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"The process of the code was ended by {name}."
