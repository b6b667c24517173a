"""The supervisor's report on an execution."""

from __future__ import annotations

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a supervisor says in the end.

    `status` is the runner's wait status, None if it was not seen to end; `problem` tells why the supervisor ends
    without more to say.
    """

    status: int | None = None
    stopped: bool = False
    problem: str | None = None
    total: int = 0
    head: bytes = b""
    tail: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Report | None:
        """The report in what a supervisor sent, None if it is not whole."""
        header, end, body = data.partition(b"\n")
        if not end:
            return None
        fields = orjson.loads(header)
        if "problem" in fields:
            return cls(problem=fields["problem"])
        head, tail = fields["head"], fields["tail"]
        if len(body) < head + tail:
            return None
        return cls(
            status=fields["status"],
            stopped=fields["stopped"],
            total=fields["total"],
            head=body[:head],
            tail=body[head : head + tail],
        )

    def output(self) -> str:
        """What was printed, with a marker where bytes are missing."""
        missing = self.total - len(self.head) - len(self.tail)
        if not missing:
            return (self.head + self.tail).decode("utf-8", errors="replace")
        # A character that the cut went through is left out with the rest.
        head = self.head.decode("utf-8", errors="replace").rstrip("\ufffd")
        tail = self.tail.decode("utf-8", errors="replace").lstrip("\ufffd")
        return f"{head}\n[{missing} bytes left out]\n{tail}"
