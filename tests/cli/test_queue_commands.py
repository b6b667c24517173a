"""`cso submit`, `cancel`, `retry`, `pause` and `resume`, with a daemon at work and without one: the same words."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
import orjson
import pytest

from runtime.config.loading import load_settings
from runtime.config.settings import Api, Settings
from runtime.notice import posted
from runtime.spool import Ignored, Seen, Spool
from store.database import Reader
from store.errors import StorageTroubleError
from store.runs import find_run
from tests.acceptance.programs import Ran
from tests.acceptance.scripted import Ask, Script, ScriptedModels, scripted_models
from tests.cli.typed import AtWork, at_work, typed, write_configuration, write_tasks

DEADLINE_S = 60
SCRIPT = Script(actions=("stop('42', '')",))


@dataclass(slots=True)
class Desk:
    """Someone at a terminal: a configuration, models that answer once they may, and perhaps a daemon."""

    folder: Path
    models: ScriptedModels
    config: Path
    may_answer: anyio.Event
    refuses: set[str]
    working: AtWork | None = None

    @property
    def settings(self) -> Settings:
        """The settings in effect."""
        return load_settings(self.config, {}, {}).settings

    async def cso(self, name: str, *words: str | Path) -> Ran:
        """Type a command."""
        with anyio.fail_after(DEADLINE_S):
            return await typed(name, *words, "--config", self.config)

    def tasks(self, *names: str, answer: str = "42") -> Path:
        """Write a task file."""
        return write_tasks(self.folder / "tasks.jsonl", names, answer=answer)

    async def asked(self, number: int) -> None:
        """Wait until the models have been asked so often."""
        with anyio.fail_after(DEADLINE_S):
            while len(self.models.asks) < number:  # noqa: ASYNC110 - a list has no event
                await anyio.sleep(0.01)

    async def until_finished(self, *names: str) -> None:
        """Wait until all tasks of these names, in whichever runs, have nothing left to do."""
        query = (
            "SELECT count(*) AS n FROM tasks t WHERE t.name IN (SELECT value FROM json_each(?)) AND NOT EXISTS"
            " (SELECT 1 FROM events e WHERE e.task = t.id AND e.kind = 'task-finished')"
        )
        listed = orjson.dumps(names).decode()
        with anyio.fail_after(DEADLINE_S):
            async with Reader(self.folder / "data") as reader:
                while True:
                    (row,) = await reader.fetch(query, (listed,))
                    if not row["n"]:
                        return
                    await anyio.sleep(0.02)


@contextlib.asynccontextmanager
async def desk(folder: Path, *, with_daemon: bool, more: str = "") -> AsyncIterator[Desk]:
    may_answer, refuses = anyio.Event(), set[str]()

    async def answer(ask: Ask) -> str | int:
        await may_answer.wait()
        return 500 if ask.task in refuses else await SCRIPT.answer(ask)

    async with scripted_models(answer) as models:
        made = Desk(folder, models, write_configuration(folder, models.url), may_answer, refuses)
        with made.config.open("a") as config:
            config.write(more)
        if not with_daemon:
            yield made
            return
        async with at_work(made.settings) as made.working:
            try:
                yield made
            finally:
                may_answer.set()  # replies under way are waited for


@pytest.fixture(params=[True, False], ids=["daemon", "no daemon"])
async def at(data: Path, request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with desk(data.parent, with_daemon=request.param) as made:
        yield made


async def test_submitting_again_says_that_nothing_is_new_and_a_changed_task_is_a_conflict(at: Desk) -> None:
    is_daemon = at.working is not None
    first = await at.cso("submit", at.tasks("a", "b"))
    assert (first.status, first.output) == (0, "2 tasks taken into run default\n")
    assert (f"wait for `cso serve --config {at.config}`" in first.said) is not is_daemon
    again = await at.cso("submit", at.tasks("a", "b"))
    assert (again.status, again.output, again.said) == (
        0,
        "nothing to do: run default has all of the tasks already\n",
        "",
    )
    mixed = await at.cso("submit", at.tasks("b", "c"))
    assert (mixed.status, mixed.output) == (0, "1 task taken into run default, which has 1 other already\n")
    counted = await at.cso("submit", at.tasks("c", "d"), "--json")
    assert counted.json == {
        "run": "default",
        "new": 1,
        "known": 1,
        "set_aside": [],
        "given_up": [],
        "serving": is_daemon,
        "left_out": 0,
        "daemon": is_daemon,
    }
    changed = await at.cso("submit", at.tasks("a", answer="43"))
    assert (changed.status, changed.output) == (2, "")
    assert changed.said.startswith("error: task 'a' is already in this run with another question, answer or file: ")
    many = at.tasks(*(f"n{number}" for number in range(100)))
    with many.open("ab") as file:
        file.write(b'{"id": "a", "question": "What is the answer to a?", "answer": "43"}\n')
    partly = await at.cso("submit", many)
    assert partly.status == 2
    assert ("; 64 of the tasks were taken before that, and stay" in partly.said) is is_daemon
    status = await at.cso("status", "--json")
    assert status.json["runs"][0]["tasks"] == (68 if is_daemon else 4)


async def test_tasks_are_read_from_stdin_with_the_files_that_they_name(
    at: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.csv").write_text("1;2")
    line = {"id": "sum", "question": "Sum?", "answer": "3", "file_name": "n.csv"}
    piped(orjson.dumps(line) + b"\nno JSON\n")
    taken = await at.cso("submit", "-", at.tasks("a"))
    assert (taken.status, taken.output) == (0, "2 tasks taken into run default\n")
    assert "stdin:2: it is not JSON" in taken.said
    assert "1 bad line was left out: stdin\n" in taken.said
    piped(b"")
    nothing = await at.cso("submit", "-")
    assert (nothing.status, nothing.output) == (2, "")
    assert nothing.said == "error: stdin cannot be taken: there is no task in it\n"


async def test_submitting_a_task_that_was_set_aside_or_given_up_says_so_and_what_has_it_done(data: Path) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        at.may_answer.set()
        at.refuses |= {"a", "b"}
        await at.cso("submit", at.tasks("a", "b", "c"))
        await at.until_finished("c")
        await until_set_aside(at, 2)
        assert "were set aside after failures" in (await at.cso("submit", at.tasks("a", "b", "c"))).said
        assert (await at.cso("cancel", "b")).status == 0
    for with_daemon in (True, False):
        async with desk(data.parent, with_daemon=with_daemon) as at:
            again = await at.cso("submit", at.tasks("a", "b", "c"))
            assert (again.status, again.output) == (0, "nothing new: run default has all of the tasks already\n")
            assert again.said == (
                f"task a was set aside after failures: `cso retry --run default --task a --config {at.config}` tries "
                "it again\n"
                "task b was given up: to have it done, submit it under another id, or in a new run\n"
            )
            counted = (await at.cso("submit", at.tasks("a", "b", "c", f"new {with_daemon}"), "--json")).json
            assert (counted["new"], counted["known"]) == (1, 3)
            assert (counted["set_aside"], counted["given_up"]) == (["a"], ["b"])


async def test_a_run_of_another_name_is_begun_and_named_where_there_are_several(at: Desk) -> None:
    at.may_answer.set()
    assert (await at.cso("submit", at.tasks("a"))).status == 0
    other = await at.cso("submit", at.tasks("a"), "--run", "other")
    assert (other.status, other.output) == (0, "1 task taken into the new run other\n")
    more = await at.cso("submit", at.tasks("b"), "--run", "other")
    assert (more.status, more.output) == (0, "1 task taken into run other\n")
    for words in (("pause",), ("resume",), ("cancel", "a"), ("retry", "--task", "a")):
        which = await at.cso(*words)
        assert (which.status, which.output) == (2, "")
        assert "several runs, choose one with --run: default, other" in which.said
    assert (await at.cso("pause", "--run", "other")).output == "run other is paused\n"


async def test_tasks_of_higher_priority_are_begun_before_those_that_wait(data: Path) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        assert at.working is not None
        at.working.daemon.slots.resize(1)
        at.working.daemon.bus.staff("collect", 1)
        many = [f"low-{number}" for number in range(20)]
        await at.cso("submit", at.tasks(*many))
        await at.asked(1)
        submitted = await at.cso("submit", at.tasks("high"), "--priority", "5")
        assert submitted.status == 0
        at.may_answer.set()
        await at.until_finished(*many, "high")
    begun = list(dict.fromkeys(ask.task for ask in at.models.asks))
    # Workers that had a task in hand and waited for the one place keep it.
    assert begun.index("high") <= at.working.daemon.settings.run.rollouts
    assert begun[-1] != "high"


async def test_what_there_is_not_is_said(at: Desk) -> None:
    await at.cso("submit", at.tasks("a"))
    for words, said in (
        (("cancel", "nobody"), "error: run 'default' has no task 'nobody'\n"),
        (("cancel", ""), "error: the task's id is empty: say which task is meant\n"),
        (("retry", "--task", " "), "error: the task's id is empty: say which task is meant\n"),
        (("retry", "--task", "nobody"), "error: run 'default' has no task 'nobody'\n"),
        (("pause", "--run", "nowhere"), "has no run named 'nowhere'; it has: default\n"),
        (("retry",), "error: say what to try again: --task ID, --run NAME, or --all\n"),
        (("retry", "--all", "--task", "a"), "error: --task and --all are two things: say one of them\n"),
    ):
        ran = await at.cso(*words)
        assert (ran.status, ran.output) == (2, "")
        assert ran.said.endswith(said)


@pytest.mark.parametrize("command", ["run", "submit"])
@pytest.mark.parametrize("content", ["", '{"question": "What is 1 + 1?"}\n', "no JSON\n"])
async def test_a_file_without_a_task_is_refused_before_anything_is_made(
    tmp_path: Path, command: str, content: str
) -> None:
    config = write_configuration(tmp_path, "http://127.0.0.1:9/v1")
    file = tmp_path / "none.jsonl"
    file.write_text(content)
    ran = await typed(command, file, "--config", config)
    assert (ran.status, ran.output) == (2, "")
    assert ran.said.endswith(f"error: {file} cannot be taken: there is no task in it\n")
    assert not (tmp_path / "data").exists()


async def test_a_task_may_be_in_two_files_but_not_with_other_content(at: Desk) -> None:
    first, again = at.tasks("a", "b"), write_tasks(at.folder / "again.jsonl", ["a", "c"])
    changed = write_tasks(at.folder / "changed.jsonl", ["d", "a"], answer="43")
    refused = await at.cso("submit", first, changed)
    assert (refused.status, refused.output) == (2, "")
    assert refused.said == (
        f"error: {changed} cannot be taken: task 'a' is in {first} and in {changed} with another question, answer or "
        "file: give one of them an id of its own\n"
    )
    assert (await at.cso("submit", first, again)).output == "3 tasks taken into run default\n"


async def test_commands_about_runs_make_no_data_directory(tmp_path: Path) -> None:
    config = write_configuration(tmp_path, "http://127.0.0.1:9/v1")
    for words in (("pause",), ("resume",), ("retry", "--all"), ("cancel", "a"), ("status",)):
        ran = await typed(*words, "--config", config)
        assert ran.status == 1
        assert "holds no run" in ran.said
    assert not (tmp_path / "data").exists()


async def test_a_paused_run_is_left_alone_over_restarts_until_it_is_resumed(data: Path) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        await at.cso("submit", at.tasks("a", "b"))
        await at.asked(2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(at.cso, "pause")
            await until_paused(data)
            at.may_answer.set()  # the replies that are being paid for
        asked = len(at.models.asks)
        assert at.working is not None
        assert at.working.daemon.bus.runs == frozenset()
    async with desk(data.parent, with_daemon=True) as at:
        at.may_answer.set()
        status = await at.cso("status", "--json")
        assert status.json["runs"][0]["paused"] is True
        assert status.json["daemon"]["serving"] == []
        assert status.json["daemon"]["paused"] == ["default"]
        assert "left alone until `cso resume --run default" in (await at.cso("status")).output
        taken = await at.cso("submit", at.tasks("c"))
        assert (taken.status, taken.output) == (0, "1 task taken into run default\n")
        assert "note: the run is paused, and the tasks wait for `cso resume --run default" in taken.said
        resumed = await at.cso("resume")
        assert (resumed.status, resumed.output, resumed.said) == (0, "run default goes on\n", "")
        await at.until_finished("a", "b", "c")
    assert asked == 2


async def test_status_says_which_run_the_daemon_leaves_alone_and_what_to_do(data: Path) -> None:
    async with desk(data.parent, with_daemon=False) as at:
        assert (await at.cso("submit", at.tasks("a"), "--run", "old")).status == 0
    async with desk(data.parent, with_daemon=True, more="[agent]\nmax_steps = 5\n") as at:
        assert (await at.cso("submit", at.tasks("b"))).status == 0
        await at.asked(1)
        told = (await at.cso("status")).output
    ours, old = sorted(told.split("\nrun ")[1:])
    assert ours.startswith("default ")
    assert "left alone" not in ours
    assert "left alone" in old
    assert "serve with those, or with `--run old --accept-changes`" in old


async def test_status_says_what_lies_in_the_spool_folder_and_is_not_taken_and_what_is_wrong_with_it(
    data: Path,
) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        assert at.working is not None
        await at.cso("submit", at.tasks("a"))
        folder = data.parent / "spool"
        at.working.live.spool = spool = Spool(folder, at.working.daemon.control)
        assert (await at.cso("status", "--json")).json["daemon"]["spool"] == {
            "folder": str(folder),
            "rejected": 0,
            "trouble": None,
            "ignored": 0,
            "examples": [],
        }
        unfit = Ignored("tasks.txt", "its name does not end in .jsonl")
        spool.seen = Seen(trouble=f"{folder}: Permission denied", ignored=1002, examples=(unfit,) * 10)
        told = " ".join((await at.cso("status")).output.split())
        assert f"spool {folder} cannot be used, and is tried again: {folder}: Permission denied" in told
        each = "tasks.txt, because its name does not end in .jsonl; "
        assert f"spool 1,002 in {folder} not taken: {each * 3}and 999 more" in told


async def test_orders_while_the_disk_is_in_trouble_end_with_code_4_with_a_daemon_as_without(data: Path) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        assert at.working is not None
        await at.cso("submit", at.tasks("a"))
        standing = at.working.daemon.database._standing
        standing.begin("test", StorageTroubleError("full", "the disk of DIR is full", "free some space there"))
        for words in (("submit", at.tasks("b")), ("cancel", "a"), ("retry", "--all"), ("pause",), ("resume",)):
            ran = await at.cso(*words)
            assert (ran.status, ran.output) == (4, "")
            assert ran.said.startswith("error: the daemon cannot do this now: the disk of DIR is full: free some")
        standing.end("test")


async def test_tasks_for_a_run_that_the_process_at_work_leaves_alone_wait_and_are_said_to(data: Path) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        assert at.working is not None
        at.working.daemon.every_run = False  # as `cso run` works
        taken = await at.cso("submit", at.tasks("a"), "--run", "other")
        assert (taken.status, taken.output) == (0, "1 task taken into the new run other\n")
        assert "the process at work does not work on run other: the tasks wait for `cso serve" in taken.said
        assert (await at.cso("submit", at.tasks("a"))).said == ""


async def test_a_daemon_that_does_not_answer_is_said_not_to(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.cli.reach._PATIENCE_S", 0.1)
    monkeypatch.setattr("runtime.api.client._LOOK_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    async with desk(data.parent, with_daemon=True) as at:
        await at.cso("submit", at.tasks("a"))
        for words in (("submit", at.tasks("b")), ("cancel", "a"), ("pause",)):
            with (
                socket.create_server(("127.0.0.1", 0)) as deaf,
                posted(data, f"http://127.0.0.1:{deaf.getsockname()[1]}"),
            ):
                asyncio.get_running_loop().call_later(1.0, deaf.close)
                ran = await at.cso(*words)
            assert (ran.status, ran.output) == (1, "")
            assert ran.said.startswith("the daemon does not answer yet: what it is asked for is done once it does")
            assert "error: the daemon has just ended" in ran.said


async def test_who_comes_while_the_daemon_stops_or_has_just_ended_is_told_what_to_do(data: Path) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        assert at.working is not None
        await at.cso("submit", at.tasks("a"))
        orders = (
            ("submit", at.tasks("b")),
            ("cancel", "a"),
            ("retry", "--all"),
            ("pause",),
            ("resume",),
        )
        at.working.live.stopping = True
        for words in orders:
            ran = await at.cso(*words)
            assert (ran.status, ran.output) == (1, "")
            assert ran.said == (
                "error: the daemon is stopping and takes nothing new: try again once it is gone; commands then do "
                "without one\n"
            )
        with posted(data, "http://127.0.0.1:9"):  # it has the lock still, and listens no more
            for words in orders:
                ran = await at.cso(*words)
                assert (ran.status, ran.output) == (1, "")
                assert ran.said == (
                    "error: the daemon has just ended, or is about to: try again in a moment; commands then do "
                    "without one\n"
                )
            assert "the daemon has just ended, or is about to" in (await at.cso("status")).output


async def test_a_run_that_is_resumed_where_the_daemon_has_other_settings_is_told_so(data: Path) -> None:
    async with desk(data.parent, with_daemon=False) as at:
        await at.cso("submit", at.tasks("a"), "--run", "old")
        await at.cso("pause", "--run", "old")
    async with desk(data.parent, with_daemon=True, more="[agent]\nmax_steps = 5\n") as at:
        resumed = await at.cso("resume", "--run", "old")
        assert resumed.output == "run old is not paused any more\n"
        assert "the process at work does not work on it: `cso serve" in resumed.said


async def until_paused(data: Path) -> None:
    with anyio.fail_after(DEADLINE_S):
        async with Reader(data) as reader:
            while (found := await find_run(reader, "default")) is None or not found.paused:  # noqa: ASYNC110
                await anyio.sleep(0.01)


async def test_without_a_daemon_a_run_is_paused_and_resumed_for_the_next_one(data: Path) -> None:
    async with desk(data.parent, with_daemon=False) as at:
        await at.cso("submit", at.tasks("a"))
        assert (await at.cso("pause")).output == "run default is paused\n"
        again = await at.cso("resume")
        assert again.output == "run default is not paused any more\n"
        assert f"`cso serve --config {at.config}` goes on with it" in again.said


async def test_a_cancelled_task_is_given_up_and_the_others_go_on(data: Path) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        await at.cso("submit", at.tasks("a", "b"))
        await at.asked(2)
        async with anyio.create_task_group() as tasks:
            found: list[Ran] = []
            tasks.start_soon(lambda: keep(found, at.cso("cancel", "a")))
            await until_withdrawn(at)
            at.may_answer.set()
        assert (found[0].status, found[0].output) == (0, "task a of run default is given up: 1 delivery dropped\n")
        await at.until_finished("b")
        again = await at.cso("cancel", "a", "--json")
        assert again.json == {"run": "default", "task": "a", "deliveries": 0}
        (run,) = (await at.cso("status", "--json")).json["runs"]
        assert (run["tasks"], run["tasks_finished"], run["tasks_cancelled"], run["owed"]) == (2, 1, 1, 0)
        assert "1 of 2 finished, 1 given up" in (await at.cso("status")).output
        hint = "task a was given up: to have it done, submit it under another id, or in a new run\n"
        assert (await at.cso("retry", "--task", "a")).output == hint
    assert {ask.task for ask in at.models.asks[2:]} == {"b"}


async def keep(found: list[Ran], ran: object) -> None:
    found.append(await ran)  # type: ignore[misc]


async def until_withdrawn(at: Desk) -> None:
    assert at.working is not None
    with anyio.fail_after(DEADLINE_S):
        while not any(work.scope.cancel_called for work in at.working.daemon.bus.at_work):  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def test_tasks_that_name_no_run_go_to_that_of_the_daemon_which_is_said(data: Path) -> None:
    async with desk(data.parent, with_daemon=False) as at:
        at.may_answer.set()
        await at.cso("submit", at.tasks("a"))
        renamed = at.settings.model_copy(update={"run": at.settings.run.model_copy(update={"name": "default-2"})})
        async with at_work(renamed):
            taken = await at.cso("submit", at.tasks("b"))
            assert (taken.status, taken.output) == (0, "1 task taken into run default-2\n")
            note = "note: default-2 is the run that the daemon takes tasks for; the configuration names default\n"
            assert taken.said == note
            named = await at.cso("submit", at.tasks("b"), "--run", "default", "--json")
            assert (named.json["run"], named.json["new"], named.json["daemon"]) == ("default", 1, True)
            assert named.said == ""
            await at.until_finished("b")


async def test_what_was_set_aside_is_grouped_by_cause_and_put_back_by_task_or_all_of_it(data: Path) -> None:
    async with desk(data.parent, with_daemon=True) as at:
        at.may_answer.set()
        at.refuses |= {"a", "b", "c"}
        await at.cso("submit", at.tasks("a", "b", "c", "d"))
        await at.until_finished("d")
        await until_set_aside(at, 3)
        (run,) = (await at.cso("status", "--json")).json["runs"]
        (letter,) = run["set_aside"]
        assert (letter["handler"], letter["deliveries"]) == ("collect", 3)
        assert "status 500" in letter["cause"]
        assert f"3 × collect: {letter['cause']}" in (await at.cso("status")).output

        at.refuses -= {"a"}
        one = await at.cso("retry", "--task", "a")
        assert (one.status, one.output, one.said) == (0, "1 delivery back in the queue\n", "")
        await at.until_finished("a", "d")
        at.refuses.clear()
        rest = await at.cso("retry", "--all", "--json")
        assert rest.json == {"run": None, "task": None, "deliveries": 2, "daemon": True}
        await at.until_finished("a", "b", "c", "d")
        nothing = "nothing was set aside; any endpoint that had stopped is asked again\n"
        assert (await at.cso("retry", "--all")).output == nothing


async def until_set_aside(at: Desk, number: int) -> None:
    with anyio.fail_after(DEADLINE_S):
        async with Reader(at.folder / "data") as reader:
            while True:
                (row,) = await reader.fetch("SELECT count(*) AS n FROM deliveries WHERE dead = 1")
                if row["n"] == number:
                    return
                await anyio.sleep(0.02)


async def test_a_daemon_that_wants_a_token_is_given_it_from_the_environment(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_models(SCRIPT.answer) as models:
        config = write_configuration(data.parent, models.url)
        tasks = write_tasks(data.parent / "tasks.jsonl", ["a"])
        settings = load_settings(config, {}, {}).settings
        async with at_work(settings, environ={"CSO_API_TOKEN": "right"}, api=Api(port=0)):
            for token in ("", "wrong"):
                monkeypatch.setitem(os.environ, "CSO_API_TOKEN", token)
                ran = await typed("submit", tasks, "--config", config)
                assert (ran.status, ran.output) == (2, "")
                assert "the daemon wants another token" in ran.said
                assert "CSO_API_TOKEN" in ran.said
                status = await typed("status", "--config", config, "--json")
                assert status.status == 0
                assert "wants another token" in status.json["daemon"]["error"]
                assert "wants another token" in (await typed("status", "--config", config)).output
            monkeypatch.setitem(os.environ, "CSO_API_TOKEN", "right")
            assert (await typed("submit", tasks, "--config", config)).status == 0
