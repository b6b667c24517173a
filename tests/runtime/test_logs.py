"""The program's log: where it goes, and in which form."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import orjson
import pytest
import structlog

from runtime.logs import configure_logs


@pytest.fixture(autouse=True)
def _defaults_again() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_the_log_goes_to_what_stderr_is_at_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    before, display = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", before)
    configure_logs("info")
    log = structlog.get_logger("somewhere")
    log.info("first")
    monkeypatch.setattr(sys, "stderr", display)
    log.info("second", task="t")
    assert orjson.loads(before.getvalue())["event"] == "first"
    assert orjson.loads(display.getvalue()).items() >= {"event": "second", "task": "t", "level": "info"}.items()


def test_what_is_less_severe_than_the_level_is_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logs("warning")
    structlog.get_logger("somewhere").info("unheard")
    structlog.get_logger("somewhere").warning("heard")
    assert [orjson.loads(line)["event"] for line in written.getvalue().splitlines()] == ["heard"]
