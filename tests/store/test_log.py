"""Reading the log: in words, in order, in pages, and never more than was asked for."""

from __future__ import annotations

import json
import re
import sqlite3
import types
import typing
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path

import pytest

import store.log
from store.database import FILE_NAME, Database, Reader
from store.events import ENVELOPE, KINDS
from store.log import EVERYTHING, Log, Wanted, time_text, watch_commits
from tests.story import ERROR, STORY_LENGTH, filler, tell_story, write_story

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
_NAMED = {"trajectory": "text", "parent": "text", "changes": "object"}
_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(tmp_path) as opened:
        await opened.write(tell_story())
        yield opened


@pytest.fixture
def log(database: Database) -> Log:
    return Log(database)


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.log, "_STRETCH", 7)


async def seqs(log: Log, after: int = 0, wanted: Wanted = EVERYTHING) -> list[int]:
    return [entry.seq async for page in log.pages(after, wanted, up_to=await log.newest()) for entry in page.entries]


async def test_events_are_told_in_words_that_need_no_other_table(log: Log) -> None:
    page = await log.page(0, up_to=await log.newest())
    told = {entry.kind: entry for entry in page.entries}
    assert told.keys() == KINDS.keys()
    assert {entry.run for entry in page.entries} == {"r"}
    assert told["resumed"].task is None
    assert told["task-submitted"].task == "t"
    assert told["step-scored"].fields["trajectory"] == "t/0"
    assert told["branch-completed"].fields == {
        "trajectory": "t/0@3.1.0",
        "parent": "t/0",
        "step": 3,
        "candidate": 1,
        "control": False,
        "outcome": "success",
    }
    assert told["pair-verified"].fields == {"pair": 1, "trajectory": "t/0", "step": 3, "candidate": 1}
    assert told["delivery-failed"].fields["error"] == ERROR


async def test_a_line_is_json_with_the_envelope_first(log: Log) -> None:
    (entry,) = (await log.page(0, up_to=1)).entries
    line = entry.line().decode()
    assert line.endswith("}\n")
    assert list(json.loads(line)) == ["seq", "time", "kind", "run", "task", "name", "digest"]
    assert json.loads(line) == entry.as_json()


def test_times_have_six_decimals_and_say_that_they_are_utc() -> None:
    assert time_text(1_700_000_000_000_000) == "2023-11-14T22:13:20.000000Z"
    assert time_text(1_700_000_000_000_001) == "2023-11-14T22:13:20.000001Z"


@pytest.mark.usefixtures("short_stretches")
async def test_pages_give_every_event_once_and_in_order(database: Database, log: Log) -> None:
    await database.write(filler(1, 1, 1, 100))
    newest = await log.newest()
    assert newest == STORY_LENGTH + 100
    assert await seqs(log) == list(range(1, newest + 1))
    assert await seqs(log, after=newest - 3) == list(range(newest - 2, newest + 1))
    assert await seqs(log, after=newest) == []
    page = await log.page(0, up_to=newest, size=3)
    assert ([entry.seq for entry in page.entries], page.seen) == ([1, 2, 3], 3)
    assert (await log.page(0, up_to=2)).seen == 2


@pytest.mark.usefixtures("short_stretches")
async def test_rare_events_are_found_without_reading_everything_at_once(database: Database, log: Log) -> None:
    await database.write(filler(1, 1, 1, 100))
    assert len(await seqs(log, wanted=Wanted(kinds=["pair-verified"]))) == 1
    page = await log.page(STORY_LENGTH, Wanted(kinds=["pair-verified"]), up_to=await log.newest())
    assert (page.entries, page.seen) == ([], STORY_LENGTH + 7)


async def test_events_are_chosen_by_kind_task_and_run(database: Database, log: Log) -> None:
    await database.write(tell_story("other"))
    both = await seqs(log)
    own = list(range(1, STORY_LENGTH + 1))
    assert await seqs(log, wanted=Wanted(run="r")) == own
    assert await seqs(log, wanted=Wanted(run="other")) == both[STORY_LENGTH:]
    assert await seqs(log, wanted=Wanted(run="none")) == []
    of_the_run = {"run-started", "run-changed", "resumed", "budget-spent"}
    assert len(await seqs(log, wanted=Wanted(task="t"))) == 2 * len(KINDS.keys() - of_the_run)
    assert await seqs(log, wanted=Wanted(task="u")) == []
    assert len(await seqs(log, wanted=Wanted(kinds=["resumed", "run-started"], run="r"))) == 2
    assert len(await seqs(log, wanted=Wanted(but=["resumed"], run="r"))) == STORY_LENGTH - 1
    assert await log.has_task("t")
    assert await log.has_task("t", run="other")
    assert not await log.has_task("u")
    assert not await log.has_task("t", run="none")


@pytest.mark.usefixtures("short_stretches")
@pytest.mark.parametrize("count", [1, 6, 7, 8, 50])
async def test_the_last_events_are_found_from_the_end(database: Database, log: Log, count: int) -> None:
    await database.write(filler(1, 1, 1, 60))
    newest = await log.newest()
    assert await log.before_last(count, up_to=newest) == newest - count
    assert await log.before_last(newest + count, up_to=newest) == 0
    steps = Wanted(kinds=["step-completed"])
    assert len(await seqs(log, await log.before_last(count, steps, up_to=newest), steps)) == count
    rare = Wanted(kinds=["run-started"])
    assert await log.before_last(1, rare, up_to=newest) == 0
    assert await log.before_last(0, up_to=newest) == newest


@pytest.mark.usefixtures("short_stretches")
async def test_a_time_is_found_even_though_the_clock_once_stepped_back(database: Database, log: Log) -> None:
    await database.write(filler(1, 1, 1, 60))
    newest = await log.newest()
    # Seqs 1 to 40 at times 1 to 40; then the clock steps back by 5: seq 41 at time 36.
    await database.write(
        lambda t: t.execute("UPDATE events SET time = CASE WHEN seq <= 40 THEN seq ELSE seq - 5 END")
    )
    assert await log.before_time(30, up_to=newest) == 29
    assert await log.before_time(38, up_to=newest) == 37
    assert await log.before_time(newest - 5, up_to=newest) == newest - 1
    assert await log.before_time(newest, up_to=newest) == newest
    assert await log.before_time(0, up_to=newest) == 0
    assert await log.before_time(0, up_to=0) == 0


async def test_an_event_of_an_unknown_kind_is_shown_as_it_is_stored(database: Database, log: Log) -> None:
    await database.write(lambda t: t.execute("UPDATE events SET kind = 'later', body = x'5b375d' WHERE seq = 1"))
    (entry,) = (await log.page(0, up_to=1)).entries
    assert (entry.kind, entry.fields) == ("later", {"body": [7]})


async def test_asking_for_commits_says_yes_at_first_and_after_each(database: Database) -> None:
    async with Reader(database.directory) as reader, watch_commits(reader) as anything_new:
        assert await anything_new()
        assert not await anything_new()
        await database.write(filler(1, 1, 1, 1))
        assert await anything_new()
        assert not await anything_new()


async def test_a_reader_goes_on_where_a_closed_daemon_is_opened_again(tmp_path: Path) -> None:
    await write_story(tmp_path, "a")
    async with Reader(tmp_path) as reader, watch_commits(reader) as anything_new:
        log = Log(reader)
        assert await anything_new()
        assert await log.newest() == STORY_LENGTH
        await write_story(tmp_path, "b")
        assert await anything_new()
        assert await log.newest() == 2 * STORY_LENGTH


async def test_reading_the_log_walks_through_a_stretch_of_it_and_nothing_else(database: Database) -> None:
    connection = sqlite3.connect(database.directory / FILE_NAME)
    try:
        values = {**Wanted(run="r", task="t").values, "start": 0, "end": 9, "size": 1}
        sql = store.log._ENTRIES + store.log._IS_WANTED + " ORDER BY e.seq LIMIT :size"
        plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, values)]
    finally:
        connection.close()
    assert "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in plan
    assert not [line for line in plan if re.match(r"SCAN [ekt]\b", line)]


def test_the_document_has_every_kind_with_all_its_fields_in_order() -> None:
    sections = re.split(r"^### `(.+)`$", DOCUMENT, flags=re.MULTILINE)[1:]
    documented = {
        kind: re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+\.? \|$", text, flags=re.MULTILINE)
        for kind, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert documented == {name: list(_expected(kind)) for name, kind in KINDS.items()}
    envelope = re.findall(r"^\| `(\w+)` \|", DOCUMENT.partition("## Kinds")[0], flags=re.MULTILINE)
    assert envelope == ["seq", "time", "kind", "run", "task"]


def _expected(kind: type) -> list[tuple[str, str]]:
    hints = typing.get_type_hints(kind)
    own = [field.name for field in fields(kind) if field.name not in ENVELOPE]
    return [(name, _NAMED.get(name) or _in_words(hints[name])) for name in own]


def _in_words(hint: object) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "text"
    if isinstance(hint, types.UnionType):
        return " or ".join(_WORDS[part] for part in typing.get_args(hint))
    return "object" if typing.get_origin(hint) is dict else _WORDS[typing.cast("type", hint)]
