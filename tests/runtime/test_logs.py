"""The program's log: where it goes, and in which form."""

from __future__ import annotations

import io
import logging
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import structlog

from runtime.cli.output import say
from runtime.hints import remember_options
from runtime.logs import configure_logs
from runtime.stderr import stderr


@pytest.fixture(autouse=True)
def _defaults_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stderr, "left_out", 0)
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


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_log_is_broken_between_words_and_elsewhere_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    event = "the policy endpoint cannot be reached: connection refused"
    terminal, file = _Terminal(), io.StringIO()
    for stream in (terminal, file):
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logs("info")
        structlog.get_logger("somewhere").warning(event)
    assert orjson.loads(file.getvalue())["event"] == event
    first, *rest = terminal.getvalue().splitlines()
    assert all(len(line) <= 40 for line in (first, *rest))
    assert all(line.startswith("    ") for line in rest)
    assert " ".join([first, *rest]).split()[3:] == event.split()


def test_hints_in_the_log_can_be_typed_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logs("info")
    remember_options(config=None, data=Path("there"))
    try:
        structlog.get_logger("somewhere").error("work set aside", error="see `cso status`")
    finally:
        remember_options(config=None, data=None)
    assert orjson.loads(written.getvalue())["error"] == "see `cso status --data there`"


def test_what_a_library_says_again_and_again_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    written, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr("runtime.seldom.loop_time", lambda: now[0])
    configure_logs("info")
    library = logging.getLogger("complaining")
    for later in (0, 299, 301):
        now[0] = 1000.0 + later
        for number in range(500):
            library.error("no descriptor is left for a connection")
            library.error("something else, %d", number % 2)
    lines = [orjson.loads(line) for line in written.getvalue().splitlines()]
    said = [line.get("others") for line in lines if line["event"] == "no descriptor is left for a connection"]
    assert said == [None, 999]
    assert len(lines) == 2 + 2 * 2


class _Gone(io.StringIO):
    """A stderr whose reader has gone, or whose disk is full."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_line_that_cannot_be_written_is_nobody_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Gone())
    configure_logs("info")
    log = structlog.get_logger("somewhere")
    for tell in (log.info, log.warning, log.error, log.exception, log.critical):
        tell("unheard")
    say("unheard")
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    log.info("heard")
    lost, found = map(orjson.loads, heard.getvalue().splitlines())
    assert (lost["event"], lost["lines"]) == ("lines were left out that stderr did not take", 6)
    assert found["event"] == "heard"


UNREAD = """
import sys
from runtime.logs import configure_logs, get_logger
from runtime.stderr import stderr
configure_logs("info")
log = get_logger("somewhere")
with stderr.holding_up_nothing():
    for number in range({lines}):
        log.info("unread", number=number, more="x" * {more})
    print("done", flush=True)
    sys.stdin.readline()
    log.info("read")
"""


@pytest.mark.parametrize(("lines", "more"), [(3000, 0), (100, 5000)])
def test_a_reader_that_reads_no_more_holds_nothing_up_and_later_learns_what_it_missed(lines: int, more: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UNREAD.format(lines=lines, more=more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            assert select.select([process.stdout], [], [], 60)[0], "it waits for somebody to read"
            before = b""
            while select.select([process.stderr], [], [], 1)[0]:
                before += os.read(process.stderr.fileno(), 1 << 16)
            _, after = process.communicate(b"go on\n", timeout=60)
        finally:
            process.kill()
    heard = [orjson.loads(line)["number"] for line in before.splitlines()]
    assert heard == list(range(len(heard))), "nothing is left out between lines that there was room for"
    assert len(heard) < lines
    told, read = map(orjson.loads, after.strip().split(b"\n"))
    assert (told["event"], told["lines"]) == ("lines were left out that stderr did not take", lines - len(heard))
    assert read["event"] == "read"


def test_a_reader_that_reads_misses_nothing_of_many_lines_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNREAD.format(lines=20_000, more=0)],
        input=b"",
        capture_output=True,
        timeout=60,
        check=True,
    )
    heard = [orjson.loads(line).get("number") for line in done.stderr.splitlines()]
    assert heard == [*range(20_000), None]


def test_a_terminal_whose_connection_is_dead_holds_nothing_up() -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", UNREAD.format(lines=3000, more=0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=theirs,
        ) as process:
            try:
                done, _ = process.communicate(b"go on\n", timeout=60)
            finally:
                process.kill()
        assert (done, process.returncode) == (b"done\n", 0)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_disk_that_is_full_for_a_while_holds_nothing_up_and_what_it_missed_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as file, (tmp_path / "log").open("w") as room:
        monkeypatch.setattr(sys, "stderr", file)
        configure_logs("info")
        log = structlog.get_logger("somewhere")
        with stderr.holding_up_nothing():
            for _ in range(3):
                log.info("lost")
            stderr.drain()
            os.dup2(room.fileno(), file.fileno())
            for event in ("heard", "heard again"):
                log.info(event)
                stderr.drain()
    told = [orjson.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [each["event"] for each in told] == [
        "heard",
        "lines were left out that stderr did not take",
        "heard again",
    ]
    assert told[1]["lines"] == 3


def test_what_libraries_say_is_in_the_form_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logs("info")
    logging.getLogger("library").warning("it is %s", "late")
    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=ValueError("bad\n\n  line"))
    first, second = map(orjson.loads, written.getvalue().splitlines())
    assert (first["event"], first["level"]) == ("it is late", "warning")
    assert (second["event"], second["level"], second["error"]) == ("request not understood", "info", "bad line")
