"""Tools as the code sees them: plain functions in its globals, which it may also import."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
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


class _ToolImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules that policies believe the tools to be in, after every real module."""

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self._modules: dict[str, types.ModuleType] = {
            name: _ToolModule(name, function) for name, function in functions.items()
        }
        self._modules["tools"] = tools = types.ModuleType("tools")
        vars(tools).update(functions, ToolError=ToolError)

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._modules:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._modules[spec.name]

    def exec_module(self, module: types.ModuleType) -> None:
        """The module is complete as it was created."""


def install_tools(channel: Channel, names: Sequence[str]) -> dict[str, Any]:
    """Make tools importable; what belongs into the globals of the code."""
    functions = {name: _function(channel, name) for name in names}
    sys.meta_path.append(_ToolImporter(functions))
    return {**functions, "ToolError": ToolError}


def _function(channel: Channel, name: str) -> Callable[..., Any]:
    def tool(*args: Any, **kwargs: Any) -> Any:
        return channel.call(name, args, kwargs)

    tool.__name__ = tool.__qualname__ = name
    tool.__module__ = "tools"
    return tool
