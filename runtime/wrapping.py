"""Text that fits a terminal: lines are broken between words only."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_WORD = re.compile(r"\s*\S+")


def fitted(text: str, stream: TextIO, *, hang: str = "") -> str:
    """A text as it is to be written to a stream: wrapped where that is a terminal, whole elsewhere."""
    return wrapped(text, columns(stream), hang=hang) if stream.isatty() else text


def wrapped(text: str, width: int, *, hang: str = "", measure: Callable[[str], int] | None = None) -> str:
    """Break each line of a text to `width` columns; a word that is wider than that stays whole.

    Args:
        hang: what lines that go on begin with, behind the indentation of the line or of its item in a list.
        measure: columns that a text takes; by default its characters without styles.
    """
    return "\n".join(_broken(line, width, hang, measure or _visible) for line in text.split("\n"))


def columns(stream: TextIO) -> int:
    """Columns of the terminal that a stream is; COLUMNS overrules it, and 80 are assumed where it does not say."""
    if os.environ.get("COLUMNS", "").isdecimal():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _broken(line: str, width: int, hang: str, measure: Callable[[str], int]) -> str:
    lines, now = [], ""
    rest = line.lstrip(" ").removeprefix("- ")
    hang = " " * (len(line) - len(rest)) + hang
    for word in _WORD.findall(line):
        if now.strip() and measure(now + word) > width:
            lines.append(now)
            now = hang + word.lstrip()
        else:
            now += word
    return "\n".join([*lines, now])


def _visible(text: str) -> int:
    return len(_STYLE.sub("", text))
