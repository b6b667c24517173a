"""What collect and verify share: running rollouts, judging how they ended, and recording it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import anyio

from handlers.judging.outcome import judge_answer
from runtime.errors import InfrastructureError, UnrepeatableError
from runtime.executor import Rank
from runtime.models.errors import EndpointPaused, EndpointStopped
from runtime.rollout import Ended
from runtime.services import Services
from store.events import Event, Outcome
from store.tasks import Task, read_task
from store.trajectories import Fork, Trajectory, begin_trajectory, end_trajectory, find_trajectory
from store.transaction import Transaction

Completed = Callable[[Trajectory, Ended, Outcome], Event]


async def roll_out(
    services: Services, event: Event, *, ordinal: int, fork: Fork | None, rank: Rank, completed: Completed
) -> Outcome:
    """Bring one rollout on the task of an event to a judged end, or find that it has one.

    Args:
        completed: the event that tells of the end; it is published once.

    Raises:
        InfrastructureError: it could not be brought to an end; it is recorded as an error and can be tried again.
            Where an endpoint only wants to be left alone for long, nothing is recorded.
    """
    database = services.database

    def begin(transaction: Transaction) -> tuple[Task, Trajectory]:
        assert event.task is not None  # tasks are what the handlers of rollouts are about
        task = read_task(transaction, event.task)
        identifier = begin_trajectory(transaction, task=task.id, ordinal=ordinal, fork=fork)
        return task, find_trajectory(transaction, identifier)

    task, trajectory = await database.write(begin)
    if trajectory.outcome is not None:
        return trajectory.outcome
    try:
        ended = await services.executor.run(trajectory, task, rank)
        outcome = await judge_answer(services, trajectory, task, ended.answer.output)
    except EndpointPaused:
        raise  # it is gone on with as it stands
    except InfrastructureError as error:
        await database.save(partial(end_trajectory, identifier=trajectory.id, outcome="error", error=str(error)))
        raise

    def write(transaction: Transaction) -> None:
        end_trajectory(
            transaction, trajectory.id, outcome=outcome, stop_reason=ended.reason, answer=ended.answer.output
        )
        transaction.publish(completed(trajectory, ended, outcome))

    await database.save(write)
    return outcome


async def finish_all(work: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Run pieces of work side by side; one that fails does not stop the others, whose replies are being paid for.

    Raises:
        EndpointStopped: a key was refused, which goes before what may pass.
        InfrastructureError: some failed for no fault of ours, after all have ended; see `together`.
        Exception: one failed by a defect, which goes before that.
    """
    pieces = list(work)
    if len(pieces) == 1:
        await pieces[0]()
        return
    failures: list[Exception] = []

    async def run(piece: Callable[[], Awaitable[object]]) -> None:
        try:
            await piece()
        except Exception as error:  # noqa: BLE001 - raised again below, once the others have ended
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for piece in pieces:
            tasks.start_soon(run, piece)
    for error in failures:
        if not isinstance(error, InfrastructureError):
            raise error
    stopped = [error for error in failures if isinstance(error, EndpointStopped)]
    if stopped:
        raise max(stopped, key=lambda error: error.attempts)  # whose own request was refused
    if failures:
        raise together([error for error in failures if isinstance(error, InfrastructureError)])


def together(failures: Sequence[InfrastructureError]) -> InfrastructureError:
    """The one error for several: the first itself where it is the only one, or no repeat would help any of them."""
    if len(failures) == 1 or all(isinstance(error, UnrepeatableError) for error in failures):
        return failures[0]
    error = InfrastructureError(f"{failures[0]} (and {len(failures) - 1} more)")
    error.__cause__ = failures[0]
    return error
