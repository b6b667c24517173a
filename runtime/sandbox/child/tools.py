"""Tools as the code sees them: plain functions in its globals, which it may also import."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import types
from collections.abc import Callable, Sequence
from typing import Any

from .channel import Channel, ToolError


class _ToolModule(types.ModuleType):
    """A module that is a tool as well, for `import ask_llm` followed by `ask_llm(…)`."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        super().__init__(name)
        setattr(self, name, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__)(*args, **kwargs)


class ToolImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules that policies believe the tools to be in; to be asked after every real module."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}

    def offer(self, channel: Channel, names: Sequence[str]) -> dict[str, Any]:
        """Make these tools importable and no others; what belongs into the globals of the code."""
        self._functions = {name: _function(channel, name) for name in names}
        return {**self._functions, "ToolError": ToolError}

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tools" and fullname not in self._functions:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        if spec.name in self._functions:
            return _ToolModule(spec.name, self._functions[spec.name])
        tools = types.ModuleType("tools")
        vars(tools).update(self._functions, ToolError=ToolError)
        return tools

    def exec_module(self, module: types.ModuleType) -> None:
        """The module is complete as it was created."""


def _function(channel: Channel, name: str) -> Callable[..., Any]:
    def tool(*args: Any, **kwargs: Any) -> Any:
        return channel.call(name, args, kwargs)

    tool.__name__ = tool.__qualname__ = name
    tool.__module__ = "tools"
    return tool
