"""Calls of tools, as they arrive from code that nobody trusts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.errors import ToolError
from runtime.sandbox.execution import Tool
from runtime.sandbox.frames import ProtocolError, encode_frame
from store.jsontypes import JsonValue


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: its number, given by the runner, and what is called with what."""

    number: int
    tool: str
    args: list[JsonValue]
    kwargs: dict[str, JsonValue]

    @classmethod
    def parse(cls, message: Mapping[str, JsonValue]) -> ToolCall:
        """The call that a message makes.

        Raises:
            ProtocolError: it makes none.
        """
        match message:
            case {"call": int(number), "tool": str(tool), "args": list(args), "kwargs": dict(kwargs)}:
                return cls(number, tool, args, kwargs)
        raise ProtocolError("a message that means nothing")

    async def answer(self, tools: Mapping[str, Tool]) -> bytes:
        """Make the call; the frame that answers it.

        Raises:
            Exception: whatever the tool raised that was not a ToolError.
        """
        tool = tools.get(self.tool)
        if tool is None:
            return self._refusal("tool", f"there is no tool {self.tool!r}")
        try:
            inspect.signature(tool).bind(*self.args, **self.kwargs)
        except TypeError as error:
            return self._refusal("arguments", f"{self.tool}(): {error}")
        try:
            value = await tool(*self.args, **self.kwargs)
        except ToolError as error:
            return self._refusal("tool", str(error))
        try:
            return encode_frame({"call": self.number, "value": value})
        except ValueError as error:
            return self._refusal("tool", f"the result of {self.tool}() cannot be handed over: {error}")

    def _refusal(self, kind: str, message: str) -> bytes:
        readable = message.encode("utf-8", errors="replace").decode()
        return encode_frame({"call": self.number, "error": kind, "message": readable})
