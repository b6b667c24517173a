"""What commands write: data on stdout, one JSON object where a program reads it, messages for people on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runtime.errors import CsoError
from runtime.hints import with_options
from runtime.stderr import stderr
from runtime.wrapping import fitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store.jsontypes import JsonValue


UNWRITTEN = "the output cannot be written"


class OutputError(CsoError):
    """Raised when stdout takes nothing more, as on a full disk."""


def write_data(text: str) -> None:
    """Write data to stdout, ending in a line break.

    Raises:
        BrokenPipeError: whoever read it has left.
        OutputError: it cannot be written for another reason.
    """
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{UNWRITTEN}: {error.strerror}") from error


def write_json(value: Mapping[str, JsonValue]) -> None:
    """Write one JSON object, indented, to stdout."""
    # Imported here because the help page, which needs this module for its errors, must not wait for it.
    import orjson

    write_data(orjson.dumps(dict(value), option=orjson.OPT_INDENT_2).decode())


def say(text: str) -> None:
    """Write a message for people to stderr; where that cannot be, nobody is there to read it."""
    stderr.write_line(fitted(with_options(text), sys.stderr))


def say_error(text: str) -> None:
    """Write an error to stderr in the one form that all commands share."""
    say(f"error: {text}")
