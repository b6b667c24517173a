"""Commands whose machine fails them say so, keep what is committed, and go on or end with the documented code."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
import pytest

from runtime.cli.exits import EXIT_STORAGE
from runtime.simulation.behaviour import Behaviour
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World, write_tasks
from store.database import FILE_NAME, Database
from tests.acceptance.programs import command, cso, paid, until_paid
from tests.disks import failing_disk, fill, small_disk
from tests.folders import reachable_folder

DEADLINE_S = 90
SEED, TASKS, ROLLOUTS = 11, 6, 6
BEGUN = 20  # replies that are paid for before the trouble begins


@dataclass(frozen=True, slots=True)
class Site:
    """Where `cso run` works on a world's tasks: its server, its data directory, and what it says to people."""

    folder: Path
    server: SimulationServer
    data: Path

    @property
    def environ(self) -> dict[str, str]:
        """What is set in the user's shell."""
        found = {"CSO_RUN__ROLLOUTS": str(ROLLOUTS), "CSO_RUN__DATA": str(self.data), "OPENAI_API_KEY": "k"}
        for role in ("POLICY", "EXPERT", "PRM"):
            found[f"CSO_MODELS__{role}__BASE_URL"] = self.server.base_url
            found[f"CSO_MODELS__{role}__MODEL"] = f"sim-{role.lower()}"
        return found

    @property
    def said(self) -> Path:
        """The file that takes a command's standard error."""
        return self.folder / "said"

    @property
    def command(self) -> list[str]:
        """The command line; `--json` has the numbers printed."""
        return command(["run", self.folder / "tasks" / "tasks.jsonl", "--json"])

    @contextlib.asynccontextmanager
    async def begun(self) -> AsyncIterator[anyio.abc.Process]:
        """The command in a process of its own, with some replies paid for and much left to do."""
        with self.said.open("wb") as said:
            process = await anyio.open_process(
                self.command,
                cwd=self.folder,
                env={**os.environ, **self.environ},
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        try:
            await until_paid(self.data, BEGUN)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.aclose()

    async def until_said(self, words: str) -> None:
        """Wait until the command has told this."""
        # Nobody tells us of lines in a file.
        while words not in self.said.read_text():  # noqa: ASYNC110
            await anyio.sleep(0.02)

    async def pairs(self) -> list[tuple[str, int, str]]:
        """Task, step and chosen text of each pair."""
        ran = await cso("export", "--out", self.folder / "pairs", "--json", environ=self.environ)
        assert ran.status == 0, ran.said
        rows = json.loads(await anyio.Path(ran.json["dataset"]).read_text(encoding="utf-8"))
        return [(row["provenance"]["task"], row["provenance"]["step"], row["chosen"]["value"]) for row in rows]

    def requests(self) -> list[str]:
        """Digest and place of every request that reached the server, as often as it did."""
        return [f"{entry.digest} {sorted(entry.headers.items())}" for entry in self.server.record.entries]

    def failures(self) -> int:
        """How many failed deliveries are in the log."""
        with contextlib.closing(sqlite3.connect(self.data / FILE_NAME)) as connection:
            query = "SELECT count(*) FROM events WHERE kind = 'delivery-failed'"
            return int(connection.execute(query).fetchone()[0])


@contextlib.asynccontextmanager
async def site(folder: Path, data: Path) -> AsyncIterator[Site]:
    world = World.generate(SEED, TASKS)
    async with SimulationServer(world, behaviour=Behaviour(latency=0.01)) as server:
        await anyio.to_thread.run_sync(write_tasks, world, folder / "tasks")
        yield Site(folder, server, data)


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as made:
        yield made


@pytest.fixture(scope="module")
async def expected() -> list[tuple[str, int, str]]:
    """The pairs of a run that nothing happens to."""
    with reachable_folder() as folder:
        async with site(folder, folder / "data") as place:
            with anyio.fail_after(DEADLINE_S):
                await anyio.run_process(place.command, cwd=folder, env={**os.environ, **place.environ})
            pairs = await place.pairs()
    assert pairs
    return pairs


@pytest.mark.parametrize("spare", [0, 6])
async def test_a_run_out_of_file_descriptors_waits_says_so_and_goes_on_when_there_are_more(
    folder: Path, expected: list[tuple[str, int, str]], spare: int
) -> None:
    async with site(folder, folder / "data") as place, place.begun() as process:
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: PTH208 - as a Path it would block no less
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used + spare if spare else 0, before[1]))
        with anyio.fail_after(DEADLINE_S):
            await place.until_said(f"work waits: process {process.pid} has too few file descriptors left")
            if spare == 0:
                stood = await standing_still(place)
                assert len(stood) >= BEGUN
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
            await place.until_said("the trouble is over: work goes on")
            assert await process.wait() == 0, place.said.read_text()
        assert await place.pairs() == expected
        assert place.failures() == 0
        assert len(place.requests()) == len(set(place.requests())) == paid(place.data)


async def test_a_run_whose_messages_nobody_reads_goes_on(folder: Path, expected: list[tuple[str, int, str]]) -> None:
    reading, writing = os.pipe()
    async with site(folder, folder / "data") as place:
        try:
            os.set_blocking(writing, False)
            with contextlib.suppress(BlockingIOError):
                while os.write(writing, b"full\n" * 800):
                    pass
            os.set_blocking(writing, True)
            environ = {**os.environ, **place.environ, "CSO_LOG__LEVEL": "debug"}
            with anyio.fail_after(DEADLINE_S):
                ended = await anyio.run_process(place.command, cwd=folder, env=environ, stderr=writing)
        finally:
            os.close(reading)
            os.close(writing)
        assert ended.returncode == 0
        assert await place.pairs() == expected


async def standing_still(place: Site) -> list[str]:
    """The requests that were made, once there have been no more for a while."""
    made, quiet = place.requests(), 0
    while quiet < 10:
        await anyio.sleep(0.1)
        now = place.requests()
        quiet, made = (quiet + 1 if now == made else 0), now
    return made


async def test_a_run_that_is_stopped_while_the_disk_is_full_saves_what_was_paid_for_when_there_is_room(
    folder: Path, expected: list[tuple[str, int, str]]
) -> None:
    with small_disk(folder / "disk", megabytes=48):
        async with site(folder, folder / "disk" / "data") as place:
            async with place.begun() as process:
                filler = fill(folder / "disk")
                with anyio.fail_after(DEADLINE_S):
                    await place.until_said("is full")
                    process.send_signal(signal.SIGTERM)
                    await place.until_said("waiting for what was earned to be saved (the disk of")
                    filler.unlink()
                    assert await process.wait() == 0
            with anyio.fail_after(DEADLINE_S):
                await anyio.run_process(place.command, cwd=folder, env={**os.environ, **place.environ})
            assert await place.pairs() == expected
            requests = place.requests()
            assert len(requests) == len(set(requests)) == paid(place.data)


async def test_a_disk_that_turns_read_only_is_told_and_the_run_goes_on_from_what_was_committed(
    folder: Path, expected: list[tuple[str, int, str]]
) -> None:
    with failing_disk(folder / "disk", megabytes=48) as disk:
        async with site(folder, folder / "disk" / "data") as place:
            async with place.begun() as process:
                disk.fail()
                with anyio.fail_after(DEADLINE_S):
                    await place.until_said("is on a read-only disk. Next: see why it is (dmesg, mount)")
                    process.send_signal(signal.SIGTERM)
                    await place.until_said("waiting for what was earned to be saved")
                    process.send_signal(signal.SIGTERM)
                    await place.until_said("stopped at once, without what was earned to be saved")
                    assert await process.wait() == 128 + signal.SIGTERM
            assert "Traceback" not in place.said.read_text()
            committed = paid(place.data)
            assert committed >= BEGUN
            disk.mend()
            with anyio.fail_after(DEADLINE_S):
                await anyio.run_process(place.command, cwd=folder, env={**os.environ, **place.environ})
            assert await place.pairs() == expected
            assert place.failures() == 0
            # Only a reply that had come and could not be committed any more was asked for again.
            requests = place.requests()
            assert len(requests) - len(set(requests)) <= ROLLOUTS
            assert len(set(requests)) == paid(place.data)


READING = (("status",), ("tail", "-f"), ("export", "--out", "pairs"))
WRITING = (("run", "tasks.jsonl"), ("serve",), ("submit", "tasks.jsonl"), ("retry", "--all"), ("gc",))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        *(("damaged", words) for words in (*READING, *WRITING)),
        *(("newer", words) for words in (READING[0], *WRITING)),
    ],
)
async def test_a_database_that_cannot_be_used_ends_every_command_with_one_line_and_code_4(
    folder: Path, what: str, words: tuple[str, ...]
) -> None:
    data = folder / "data"
    data.mkdir()
    (folder / "tasks.jsonl").write_text('{"id": "t", "question": "Q?", "answer": "A"}\n')
    file = data / FILE_NAME
    if what == "damaged":
        file.write_bytes(b"no database at all " * 1000)
    else:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA user_version = 999")
    before = file.read_bytes()
    async with site(folder, data) as place:
        given = [str(folder / word) if word in ("tasks.jsonl", "pairs") else word for word in words]
        ran = await cso(*given, environ={**place.environ, "CSO_API__PORT": "0"})
    assert ran.status == EXIT_STORAGE, ran.said
    assert "Traceback" not in ran.said
    (told,) = [line for line in ran.said.splitlines() if line.startswith("error: ")]
    assert ("is damaged" if what == "damaged" else "has version 999") in told
    assert file.read_bytes() == before


@pytest.mark.parametrize("limit", [12, 16, 40])
async def test_a_process_that_may_open_too_few_files_says_so_before_anything_is_begun(
    folder: Path, limit: int
) -> None:
    serve = " ".join(command(["serve", "--port", "0"]))
    async with site(folder, folder / "data") as place:
        with anyio.fail_after(DEADLINE_S):
            ran = await anyio.run_process(
                f"ulimit -n {limit}; exec {serve}", check=False, cwd=folder, env={**os.environ, **place.environ}
            )
    assert ran.returncode == EXIT_STORAGE
    assert f"error: this process may open {limit} files at most" in ran.stderr.decode()
    assert b"Traceback" not in ran.stderr
    assert not place.data.exists()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_disk_without_room_ends_a_command_with_code_4_before_any_model_is_called(
    folder: Path, *, begun: bool
) -> None:
    with small_disk(folder / "disk", megabytes=2):
        if begun:
            async with Database(folder / "disk" / "data"):
                pass
        fill(folder / "disk")
        async with site(folder, folder / "disk" / "data") as place:
            ran = await cso("run", folder / "tasks" / "tasks.jsonl", environ=place.environ)
            assert ran.status == EXIT_STORAGE, ran.said
            assert "is full (0.0 MB free): free some space there" in ran.said
            assert place.requests() == []
