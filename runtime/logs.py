"""The program's own log, on stderr: for people on a terminal, one JSON object a line elsewhere.

It is about the program. What happens to tasks is in the event log, which is in the database.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import cast

from runtime.hints import with_options
from runtime.seldom import Seldom
from runtime.stderr import stderr
from runtime.wrapping import fitted

_HANG = "    "
_SHOWN = 200


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Have a module look as if it were not installed, unless it has been imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = cast("ModuleType", None)
    try:
        yield
    finally:
        del sys.modules[module]


# It would import rich, for tracebacks that are not ours, and that takes a tenth of the time of every start.
with _hidden("rich"):
    import structlog


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """The log of a part of the program: an event in words, and facts by name."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


def configure_logs(level: str) -> None:
    """Send the log to stderr from `level` (debug, info, warning, error) up."""
    is_terminal = sys.stderr.isatty()
    # On a terminal the time is that of whoever sits there, and the line has little room.
    clock = structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_terminal else "iso", utc=not is_terminal)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            clock,
            structlog.processors.format_exc_info,
            _complete_hints,
            _for_people() if is_terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    if not any(isinstance(handler, _Libraries) for handler in root.handlers):
        root.addHandler(_Libraries())


class _Libraries(logging.Handler):
    """What libraries have to say, from warnings up, in the form of our own log; the same again only now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if record.name == "aiohttp.server":  # requests that are none: the fault of whoever sent them
            get_logger("api").info("request not understood", error=" ".join(str(error).split())[:_SHOWN])
            return
        said = record.getMessage()
        # As asyncio says of each connection that it could not accept, some thousand times a second.
        others = self._seldom.others((record.name, record.levelno, said))
        if others is not None:
            more = {"others": others} if others else {}
            get_logger(record.name).log(record.levelno, said, exc_info=error, **more)


class _Lines:
    """Lines for whoever reads them: that nobody does, or that they cannot be written, ends or holds up no work."""

    def msg(self, message: str) -> None:
        """Write a line if that can be, behind a word about those that could not."""
        lost = stderr.left_out if stderr.takes_more() else 0
        if lost:
            stderr.left_out = 0
            get_logger("log").error("lines were left out that stderr did not take", lines=lost)
            if stderr.left_out:  # this one as well
                stderr.left_out = lost
        stderr.write_line(message)

    debug = info = warning = error = critical = msg


def _lines(*_names: object) -> _Lines:
    return _Lines()


def _complete_hints(
    _logger: structlog.typing.WrappedLogger, _method: str, entry: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {key: with_options(value) if isinstance(value, str) else value for key, value in entry.items()}


def _for_people() -> structlog.typing.Processor:
    render = structlog.dev.ConsoleRenderer(
        colors=not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
    )

    def lines(logger: structlog.typing.WrappedLogger, method: str, entry: structlog.typing.EventDict) -> str:
        return fitted(str(render(logger, method, entry)), sys.stderr, hang=_HANG)

    return lines
