"""Commands that messages name, with the options that lead to the same data: a hint can be typed as it stands.

Messages come from everywhere, also out of the database; what was typed is known to the command line alone.
"""

from __future__ import annotations

import re
import shlex
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_HINT = re.compile(r"`cso ([a-z]+)([^`]*)`")
# What of `--config` and `--data` a command has, where that is not both.
_LESS: dict[str, tuple[str, ...]] = {"config": ("--config",), "init": (), "demo": ()}
_given: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("options", default=())


def remember_options(*, config: Path | None, data: Path | None) -> None:
    """Have hints repeat what a command was given of these."""
    given = {"--config": config, "--data": data}
    _given.set(tuple((name, shlex.quote(str(path))) for name, path in given.items() if path is not None))


def with_options(text: str) -> str:
    """A message whose commands are those to type here."""
    return _HINT.sub(_completed, text) if _given.get() and "`cso " in text else text


def _completed(hint: re.Match[str]) -> str:
    command, rest = hint.groups()
    has = _LESS.get(command, ("--config", "--data"))
    more = "".join(f" {name} {path}" for name, path in _given.get() if name in has and name not in rest)
    return f"`cso {command}{rest}{more}`"
