"""`cso tail`: every event once, in order, for people and programs, beside a daemon or before there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from types import MappingProxyType

import anyio
import pytest
from rich.cells import cell_len

from runtime.cli.eventlines import EventLines, wants_colour
from runtime.cli.main import main
from runtime.cli.sentences import printable, sentence
from runtime.cli.tail import BUSY_KINDS, parse_since
from runtime.errors import ConfigError
from store.database import Database, Reader
from store.events import KINDS
from store.jsontypes import JsonValue
from store.log import Entry, Log
from tests.story import STORY_LENGTH, filler, tell_story, write_story

ROOT = Path(__file__).parents[2]
HOUR_US = 3_600_000_000
Lines = partial(EventLines, today=date.fromtimestamp(0))  # when all events of `entry` are


class Tail:
    """A `cso tail` in a process of its own, its lines read as they come."""

    def __init__(self, *args: str) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runtime.cli.main", "tail", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, into))
            for stream, into in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Iterator[str], into: list[str]) -> None:
        for line in stream:
            with self._changed:
                into.append(line)
                self._changed.notify()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Block until the lines fulfil something."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=30), (self.lines[-3:], self.errors)

    def seqs(self) -> list[int]:
        """The seqs of the lines, which are JSON."""
        return [json.loads(line)["seq"] for line in self.lines]

    def end(self, how: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(how)
        return self.finish()

    def finish(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture
def tailing() -> Iterator[Callable[..., Tail]]:
    begun: list[Tail] = []

    def begin(*args: str) -> Tail:
        begun.append(Tail(*args))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def run(*args: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["tail", *map(str, args)])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def kinds_shown(text: str) -> list[str]:
    return [line[21:].split()[0] for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    anyio.run(write_story, tmp_path, "r")
    return tmp_path


def test_people_see_what_matters_and_all_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", folder) == 0
    shown = kinds_shown(capsys.readouterr().out)
    assert len(shown) == STORY_LENGTH - len(BUSY_KINDS)
    assert not set(shown) & set(BUSY_KINDS)
    assert run("--data", folder, "--all") == 0
    assert sorted(kinds_shown(capsys.readouterr().out)) == sorted(KINDS)
    assert run("--data", folder, "--kind", "call-completed", "--kind", "resumed") == 0
    assert kinds_shown(capsys.readouterr().out) == ["call-completed", "resumed"]


def test_programs_get_every_kind_in_the_form_of_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", folder, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, STORY_LENGTH + 1))
    assert {event["kind"] for event in events} == KINDS.keys()


def test_the_last_events_are_shown_or_as_many_as_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def more() -> None:
        async with Database(folder) as database:
            await database.write(filler(1, 1, 1, 30))

    anyio.run(more)
    newest = STORY_LENGTH + 30

    def shown(*args: str) -> list[int]:
        assert run("--data", folder, "--json", *args) == 0
        return [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()]

    assert shown() == list(range(newest - 19, newest + 1))
    assert shown("-n", "3") == list(range(newest - 2, newest + 1))
    assert shown("-n", "0") == list(range(1, newest + 1))
    assert shown("--since", "5") == list(range(6, newest + 1))
    assert shown("--since", "5", "-n", "2") == [newest - 1, newest]
    assert shown("--since", str(newest)) == []
    assert shown("--since", "1h") == list(range(1, newest + 1))
    assert shown("--since", "2999-01-01") == []
    assert shown("--since", "1999-01-01T00:00Z", "-n", "1") == [newest]
    assert shown("-n", "1", "--task", "t", "--run", "r") == [newest]
    for follow in ((), ("-f",)):  # or whoever follows from a place of another folder would wait for ever
        assert run("--data", folder, "--since", str(newest + 1), *follow) == 2
        said = capsys.readouterr()
        assert said.out == ""
        told = " ".join(said.err.split())
        assert f"--since {newest + 1}: the newest event in {folder} is {newest}" in told
    assert run("--data", folder, "--since", "") == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["--kind", "pair-verifed"], "--kind pair-verifed: there is no such kind; did you mean pair-verified?", 2),
        (["--kind", "zzz"], "--kind zzz: there is no such kind; there are: run-started, ", 2),
        (["--since", "soon"], "--since soon: it is neither the seq of an event, nor a duration such as 90s,", 2),
        (["--run", "x"], "has no run named 'x'; it has: r", 2),
        (["--task", "x"], "has no task named 'x'", 2),
    ],
)
def test_a_wrong_request_says_what_would_be_right(
    folder: Path, capsys: pytest.CaptureFixture[str], args: Sequence[str], message: str, code: int
) -> None:
    assert run("--data", folder, *args) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_without_a_database_and_without_following_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data", tmp_path / "none") == 1
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("17", (17, None)),
        ("90s", (0, 10 * HOUR_US - 90_000_000)),
        ("1h30m", (0, 10 * HOUR_US - HOUR_US * 3 // 2)),
        ("0.5h", (0, 10 * HOUR_US - HOUR_US // 2)),
        ("1970-01-01T02:00:00Z", (0, 2 * HOUR_US)),
        ("1970-01-01T02:00:00+01:00", (0, HOUR_US)),
        ("10", (10, None)),
    ],
)
def test_since_takes_a_seq_a_duration_or_a_time(text: str, since: tuple[int, int | None]) -> None:
    assert parse_since(text, now=36_000.0) == since


@pytest.mark.parametrize("text", ["", "m", "10x", "1h 30m", "-5", "²", "2026-13-01", "10mm"])
def test_since_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_since(text, now=0.0)


async def test_following_shows_every_event_once_across_restarts_of_the_daemon(
    tmp_path: Path, tailing: Callable[..., Tail]
) -> None:
    tail = tailing("-f", "--json", "--data", str(tmp_path))
    await anyio.to_thread.run_sync(tail.wait_for, lambda: bool(tail.errors))
    newest = 0
    for name in ("a", "b", "c"):
        async with Database(tmp_path) as database:
            await database.write(tell_story(name))
            newest += STORY_LENGTH
            for _ in range(20):
                await database.write(filler(1, 1, 1, 60))
                newest += 60
            expected = newest
            await anyio.to_thread.run_sync(tail.wait_for, lambda: len(tail.lines) >= expected)  # noqa: B023 - awaited
    code = await anyio.to_thread.run_sync(tail.end, signal.SIGINT)
    assert tail.seqs() == list(range(1, newest + 1))
    assert tail.errors == [f"waiting for a run in {tmp_path}\n"]
    assert code == 130


async def test_following_starts_over_with_a_database_that_takes_the_place(
    tmp_path: Path, tailing: Callable[..., Tail]
) -> None:
    folder = tmp_path / "data"
    await write_story(folder, "first")
    tail = tailing("-f", "--json", "-n", "1", "--data", str(folder))
    await anyio.to_thread.run_sync(tail.wait_for, lambda: len(tail.lines) == 1)
    await write_story(tmp_path / "new", "second")
    shutil.rmtree(folder)
    (tmp_path / "new").rename(folder)
    await anyio.to_thread.run_sync(tail.wait_for, lambda: len(tail.lines) == 1 + STORY_LENGTH)
    assert json.loads(tail.lines[1])["run"] == "second"
    assert "another database has taken the place" in tail.errors[0]
    assert await anyio.to_thread.run_sync(tail.end, signal.SIGINT) == 130
    assert "Traceback" not in "".join(tail.errors)


async def test_following_shows_only_what_was_asked_for(folder: Path, tailing: Callable[..., Tail]) -> None:
    tail = tailing("-f", "--json", "-n", "0", "--kind", "pair-verified", "--run", "later", "--data", str(folder))
    await write_story(folder, "other", "later")
    await anyio.to_thread.run_sync(tail.wait_for, lambda: len(tail.lines) == 1)
    assert json.loads(tail.lines[0])["run"] == "later"


def test_a_reader_that_leaves_ends_it_even_while_nothing_happens(folder: Path) -> None:
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "runtime.cli.main", "tail", "-f", "--data", str(folder)]
    with subprocess.Popen(command, stdout=write_end, stderr=subprocess.PIPE, cwd=ROOT) as process:
        os.close(write_end)
        assert os.read(read_end, 10)
        os.close(read_end)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == b""


def test_a_day_is_told_when_it_changes() -> None:
    lines = EventLines(width=100, colour=False, today=date(1970, 1, 1))
    day_us = 86_400_000_000
    entries = [entry(time=day * day_us + day_us // 2) for day in (0, 0, 1, 1)]
    days = [line for line in lines.lines(entries) if line.startswith("──")]
    assert days == ["── Friday, 1970-01-02 ──\n"]


@pytest.mark.parametrize("width", [52, 64, 80, 200])
def test_an_event_takes_as_many_lines_as_it_needs_broken_between_words(width: int) -> None:
    label = f"{'long-name-' * 3}/0@3.1.0"
    error = "endpoint policy: cannot connect: connection refused (5 attempts); it said: " + "what it said " * 20
    entries = [
        entry(kind="delivery-failed", task="名前" * 8, own={"error": error}),
        entry(kind="branch-completed", own={"trajectory": label, "candidate": 1, "step": 3, "outcome": "failure"}),
        entry(kind="task-finished", task="t"),
    ]
    lines = [*Lines(width=width, colour=False).lines(entries)]
    assert all(cell_len(line.removesuffix("\n")) <= width and line.endswith("\n") for line in lines)
    told = " ".join("".join(lines).split())
    for text in (" ".join(error.split()), label, "名前" * 8):
        assert text in told
    begins = [number for number, line in enumerate(lines) if line[0] != " "]
    assert len(begins) == len(entries)
    assert all(line.startswith(" " * len("00:00:00  ")) for n, line in enumerate(lines) if n not in begins)


def test_what_cannot_be_broken_is_left_to_the_terminal() -> None:
    lines = [*Lines(width=5, colour=False).lines([entry(task="x" * 300)])]
    assert "x" * 300 in " ".join(lines)


def test_elsewhere_lines_are_whole_and_carry_the_date() -> None:
    (line,) = Lines(width=None, colour=False).lines([entry(task="x" * 300)])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  task-finished {9}x{300}  finished\n", line)


def test_colours_surround_words_and_only_where_wanted() -> None:
    failed = entry(kind="delivery-failed", own={"dead": True})
    (plain,) = Lines(width=200, colour=False).lines([failed])
    (coloured,) = Lines(width=200, colour=True).lines([failed])
    assert "\x1b" not in plain
    assert "\x1b[31mdelivery-failed" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == plain


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_have_them(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *, wanted: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(terminal=True) is wanted
    assert not wants_colour(terminal=False)


def test_the_run_is_named_once_there_are_several() -> None:
    lines = Lines(width=None, colour=False)
    (alone,) = lines.lines([entry()])
    assert " t " in alone
    assert all(f" {run}: t " in line for run, line in zip("rs", lines.lines([entry(), entry(run="s")]), strict=True))
    silent = Lines(width=None, colour=False, show_runs=False)
    assert " t " in [*silent.lines([entry(), entry(run="s")])][1]


def test_what_could_move_the_cursor_is_shown_as_a_dot() -> None:
    assert printable("a\x1b[2J\r\nb\u202ec\x9bd\te 名前 é") == "a·[2J b·c·d e 名前 é"
    hostile = entry(kind="delivery-failed", task="\x1b]0;x\x07", run="\x1b[1m", own={"error": "\x1b[31m\nno"})
    (line,) = Lines(width=None, colour=False).lines([hostile])
    assert line.removesuffix("\n").isprintable()


async def test_every_kind_is_told_in_a_sentence_of_its_own(tmp_path: Path) -> None:
    await write_story(tmp_path, "r")
    async with Reader(tmp_path) as reader:
        entries = (await Log(reader).page(0, up_to=STORY_LENGTH)).entries
    told = {entry.kind: sentence(entry)[0] for entry in entries}
    assert told["call-completed"] == "step 3: policy replied to action, 1200 + 30 tokens"
    assert told["step-scored"] == "step 3: score 0.25, candidate critical step, 1 of 2 alternatives good"
    assert told["trajectory-completed"] == "failure after 4 steps (max-steps)"
    assert told["branch-completed"] == "success: alternative 1 at step 3"
    assert told["pair-verified"] == "pair 1: alternative 1 at step 3"
    assert told["delivery-failed"] == (
        "collect on event 2 failed at attempt 5, set aside: it said: ·[31mno·[0m and 名前"
    )
    assert len(set(told.values())) == len(KINDS)


def test_an_event_of_an_unknown_kind_is_told_as_it_is() -> None:
    assert sentence(entry(kind="later", own={"body": [1, "x"]}))[0] == "body [1, 'x']"


def entry(
    *,
    time: int = 0,
    kind: str = "task-finished",
    task: str | None = "t",
    run: str = "r",
    own: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Entry:
    """An event with the fields that its sentence needs, some of them as given."""
    filled = {name: own.get(name, 0) for name in KINDS[kind].own_fields()} if kind in KINDS else dict(own)
    return Entry(seq=1, time=time, kind=kind, run=run, task=task, fields=filled)
