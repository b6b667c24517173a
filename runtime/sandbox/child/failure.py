"""How the end of code reads: tracebacks that show the lines of the code and none of the machinery."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "<action>"
_MACHINERY = str(Path(__file__).parent)
_LONGEST = 16_000
_COMPACT: dict[str, Any] = {"compact": True} if sys.version_info >= (3, 10) else {}


def remember_source(code: str) -> None:
    """Let tracebacks quote the code."""
    linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)


def describe_exit(error: SystemExit) -> str:
    """One line on code that ended itself."""
    code = error.code
    shown = "" if code is None else repr(code) if isinstance(code, (int, str)) else type(code).__name__
    return _shorten(f"The code ended itself: sys.exit({shown})")


def describe_exception(error: BaseException) -> str:
    """The traceback of an uncaught exception, at most 16,000 characters with its beginning and its end."""
    told = traceback.TracebackException(type(error), error, error.__traceback__, **_COMPACT)
    for part in _parts(told):
        kept = [frame for frame in part.stack if not frame.filename.startswith(_MACHINERY)]
        part.stack = traceback.StackSummary.from_list(kept)
    return _shorten("".join(told.format()).rstrip())


def _parts(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    pending: list[traceback.TracebackException | None] = [told]
    while pending:
        part = pending.pop()
        if part is not None:
            yield part
            pending += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]


def _shorten(text: str) -> str:
    # Half of a surrogate pair, as in names that are not UTF-8, cannot be told otherwise.
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
