"""The program's own log, on stderr: for people on a terminal, one JSON object a line elsewhere.

It is about the program. What happens to tasks is in the event log, which is in the database.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import cast


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
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_logger_of_stderr,
        cache_logger_on_first_use=False,
    )


def _logger_of_stderr(*_names: object) -> structlog.PrintLogger:
    # What stderr is at the time: a progress display puts something in its place that writes above the bars.
    return structlog.PrintLogger(sys.stderr)
