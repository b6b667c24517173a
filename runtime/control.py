"""What people tell a data directory to do: take tasks, drop one, try again, pause and go on.

`Control` is that list of requests. `LocalControl` fulfils them on an open database, in the daemon or, when there is
none, in the command itself; `runtime.api.client` hands them to a daemon over HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio
import orjson

from runtime.config.settings import Settings
from runtime.errors import ConfigError, CsoError
from runtime.runs import open_run
from store.database import Database
from store.deliveries import cancel_deliveries, revive_deliveries
from store.formats.task_files import TaskRecord
from store.runs import Run, find_run, read_run, set_paused
from store.tasks import (
    ChangedTaskError,
    Halted,
    TaskFile,
    find_task,
    halted_tasks,
    submit_task,
    task_digest,
    task_digests,
)
from store.transaction import Transaction

if TYPE_CHECKING:
    from runtime.bus import Bus  # a daemon's; its clients would import it for nothing

BATCH = 64  # tasks handed over in one transaction or request, so that a long file does not hold up everyone else
_BATCH_BYTES = 16 << 20


class UnknownNameError(ConfigError):
    """Raised when there is no run, or no task in it, of the name that was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of tasks that were handed in for a run: taken, or known already.

    Of those that are known, the names of those that were set aside after failures, and of those that were given up.
    `serving` says whether a daemon works on the run.
    """

    run: str
    new: int
    known: int
    serving: bool = False
    set_aside: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parcel:
    """A task to be taken, with the content of its files."""

    record: TaskRecord
    files: tuple[TaskFile, ...] = ()

    def is_same(self, other: Parcel) -> bool:
        """Whether another of this name is this one again, and not a changed one."""
        return self.record.is_same(other.record) and self.files == other.files


class Control(Protocol):
    """Requests that change what is to be done. A run or task is named as its user named it."""

    async def submit(self, records: Sequence[TaskRecord], *, run: str | None = None, priority: int = 0) -> Submitted:
        """Take tasks into the queue of a run, begun now if there is none; those that it has are left alone.

        Args:
            run: by default the one that the settings of whoever takes them name.
            priority: higher goes first.

        Raises:
            ChangedTaskError: a task of that name is there with other content.
            ConfigError: a task's file cannot be read.
            RunChangedError: the run was begun with other settings.
        """
        ...

    async def cancel(self, *, run: str, task: str) -> int:
        """Give a task up: nothing more is done for it, what is stored stays. How many deliveries were open.

        Raises:
            UnknownNameError: there is no such task.
        """
        ...

    async def retry(self, *, run: str | None = None, task: str | None = None) -> int:
        """Put what was set aside back into the queue: of a task, of a run or of all. How many deliveries.

        Endpoints that stopped are asked again at once, whatever was set aside.

        Raises:
            UnknownNameError: there is no such run or task.
        """
        ...

    async def pause(self, run: str) -> None:
        """Leave a run alone until it is resumed, once replies that are being paid for have arrived.

        Raises:
            UnknownNameError: there is no such run.
        """
        ...

    async def resume(self, run: str) -> bool:
        """Take a run up again; whether a daemon works on it now.

        Raises:
            UnknownNameError: there is no such run.
        """
        ...


class LocalControl:
    """Fulfils requests on a database that is open for writing.

    Args:
        bus: of the daemon that works on it, which then acts at once; None if nobody works.
        serves: whether that daemon works on a run.
        take_up: has that daemon go on with a run, by its id, and with what rests of it.
        ask_again: has that daemon's endpoints asked again that stopped.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        bus: Bus | None = None,
        serves: Callable[[Run], bool] = lambda _run: False,
        take_up: Callable[[int], Awaitable[None]] | None = None,
        ask_again: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._bus = bus
        self._serves = serves
        self._go_on_with = take_up
        self._ask_again = ask_again

    async def submit(self, records: Sequence[TaskRecord], *, run: str | None = None, priority: int = 0) -> Submitted:
        """Take tasks into the queue, where one has changed none; see Control.

        A note on another error says how many of them were taken before it.
        """
        name = run or self._settings.run.name
        unknown, new = await self._unknown(records, name), 0
        if not unknown:
            await self.take((), run=name)  # tasks that are known are a reason to begin or take up a run, too
        try:
            async for parcels in read_parcels(unknown):
                new += (await self.take(parcels, run=name, priority=priority)).new
        except CsoError as error:
            note_taken(error, new)
            raise
        known = {record.name for record in records} - {record.name for record in unknown}
        chosen = await self._run(name)
        halted = await halted_tasks(self._database, chosen.id, known)
        return self._submitted(chosen, new, len(records), halted)

    async def take(self, parcels: Sequence[Parcel], *, run: str | None = None, priority: int = 0) -> Submitted:
        """Take a batch of tasks in one transaction: all of them, or on an error none."""
        chosen = await open_run(self._database, self._settings, run or self._settings.run.name)

        def write(transaction: Transaction) -> int:
            return sum(
                submit_task(transaction, run=chosen.id, record=one.record, files=one.files, priority=priority)
                for one in parcels
            )

        new = await self._database.write(write)
        await self._take_up(chosen)
        halted = Halted()
        if new < len(parcels):
            halted = await halted_tasks(self._database, chosen.id, [one.record.name for one in parcels])
        return self._submitted(chosen, new, len(parcels), halted)

    def _submitted(self, run: Run, new: int, all_of_them: int, halted: Halted) -> Submitted:
        return Submitted(
            run=run.name,
            new=new,
            known=all_of_them - new,
            serving=self._serves(run),
            set_aside=halted.set_aside,
            given_up=halted.given_up,
        )

    async def _unknown(self, records: Sequence[TaskRecord], run: str) -> list[TaskRecord]:
        """Those that a run does not have.

        Raises:
            ChangedTaskError: it has one of the others with other content.
        """
        found = await find_run(self._database, run)
        if found is None:
            return list(records)
        unknown = []
        for start in range(0, len(records), BATCH):
            batch = records[start : start + BATCH]
            digests = await task_digests(self._database, found.id, [record.name for record in batch])
            for record in batch:
                known = digests.get(record.name)
                if known is None:
                    unknown.append(record)
                elif known != await _digest(record):
                    raise ChangedTaskError(record.name)
        return unknown

    async def cancel(self, *, run: str, task: str) -> int:
        """Give a task up; see Control."""
        number, identifier = (await self._run(run)).id, await self._task(run, task)
        if self._bus is not None:
            await self._bus.withdraw(task=identifier)
        return await self._database.write(partial(cancel_deliveries, run=number, task=identifier))

    async def retry(self, *, run: str | None = None, task: str | None = None) -> int:
        """Put what was set aside back into the queue; see Control."""
        number = None if run is None else (await self._run(run)).id
        identifier = None if task is None else await self._task(run or self._settings.run.name, task)
        revived = await self._database.write(partial(revive_deliveries, run=number, task=identifier))
        self._ask_again()
        if self._bus is not None:
            self._bus.release_held()
            self._bus.look()
        return revived

    async def pause(self, run: str) -> None:
        """Leave a run alone; see Control."""
        number = (await self._run(run)).id
        await self._database.write(partial(set_paused, run=number, paused=True))
        if self._bus is not None:
            await self._bus.withdraw(run=number)

    async def resume(self, run: str) -> bool:
        """Take a run up again; see Control."""
        number = (await self._run(run)).id
        await self._database.write(partial(set_paused, run=number, paused=False))
        self._ask_again()  # for how long an endpoint has been away counts anew: nobody tried meanwhile
        if self._go_on_with is not None:
            await self._go_on_with(number)
        return self._admit(await self._run_now(run))

    async def _take_up(self, run: Run) -> None:
        """Have the bus work on a run that it does not work on yet, unless it was paused meanwhile.

        More tasks are no reason to try an endpoint that stopped.
        """
        if self._bus is not None and run.id not in self._bus.runs | self._bus.held:
            self._admit(await self._run_now(run.name))

    def _admit(self, run: Run) -> bool:
        """Have the bus work on a run if it is to; whether it does."""
        if self._bus is None or not self._serves(run):
            return False
        if run.id not in self._bus.runs:
            self._bus.admit([run.id])
        return True

    async def _run(self, name: str) -> Run:
        found = await find_run(self._database, name)
        if found is None:
            raise UnknownNameError(f"there is no run {name!r}")
        return found

    async def _run_now(self, name: str) -> Run:
        """The run as it is between the writes before this and those after it, so that no pause is overlooked."""
        found = await self._database.write(partial(read_run, name=name))
        assert found is not None  # runs are never removed
        return found

    async def _task(self, run: str, name: str) -> int:
        identifier = await find_task(self._database, (await self._run(run)).id, name)
        if identifier is None:
            raise UnknownNameError(f"run {run!r} has no task {name!r}")
        return identifier


def note_taken(error: CsoError, number: int) -> None:
    """Have an error say that so many of the tasks that were handed in were taken before it."""
    if number:
        error.add_note(f"{number} of the tasks were taken before that, and stay")


async def read_parcels(records: Sequence[TaskRecord]) -> AsyncIterator[list[Parcel]]:
    """The tasks with the contents of their files, in batches that are small enough to be held in memory.

    Raises:
        ConfigError: a task's file cannot be read.
    """
    batch: list[Parcel] = []
    size = 0
    for record in records:
        parcel = Parcel(record, await _read_file(record))
        batch.append(parcel)
        size += len(orjson.dumps(record.original)) + sum(len(file.content) for file in parcel.files)
        if len(batch) == BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _digest(record: TaskRecord) -> bytes:
    if record.file is None:
        return task_digest(record, ())
    return await anyio.to_thread.run_sync(task_digest, record, await _read_file(record))


async def _read_file(record: TaskRecord) -> tuple[TaskFile, ...]:
    if record.file is None:
        return ()
    path = Path(record.file)
    try:
        content = await anyio.Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"task {record.name!r}: its file {path} cannot be read: {error.strerror}") from error
    return (TaskFile(name=path.name, content=content),)
