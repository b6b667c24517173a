"""The program's own log, on stderr: for people on a terminal, one JSON object a line elsewhere.

It is about the program. What happens to tasks is in the event log, which is in the database.
"""

from __future__ import annotations

import logging
import sys

import structlog


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
