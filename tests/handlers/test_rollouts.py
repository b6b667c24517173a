"""Work side by side: one piece that fails leaves the others alone, and what it failed of is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from handlers.rollouts import finish_all
from runtime.errors import BudgetSpentError, InfrastructureError
from runtime.models.errors import RequestRefused

SPENT = BudgetSpentError(run=1, task=None, setting="budget.calls", cap=1, spent=1)
REFUSED = RequestRefused("unknown model", endpoint="policy")


def failing(error: Exception) -> Callable[[], Awaitable[object]]:
    async def work() -> None:
        raise error

    return work


async def test_what_fails_first_does_not_stop_the_others() -> None:
    failed, done = anyio.Event(), []

    async def fails() -> None:
        failed.set()
        raise REFUSED

    async def goes_on() -> None:
        await failed.wait()
        await anyio.lowlevel.checkpoint()
        done.append(1)

    with pytest.raises(RequestRefused):
        await finish_all([goes_on, fails, goes_on])
    assert done == [1, 1]


async def test_a_failure_that_is_alone_is_raised_as_it_is() -> None:
    with pytest.raises(RequestRefused) as caught:
        await finish_all([failing(REFUSED)])
    assert caught.value is REFUSED


async def test_of_several_failures_the_first_is_told_and_the_others_are_counted() -> None:
    with pytest.raises(InfrastructureError, match=r"unknown model \(and 2 more\)") as caught:
        await finish_all([failing(REFUSED), failing(InfrastructureError("x")), failing(InfrastructureError("y"))])
    assert caught.value.__cause__ is REFUSED


async def test_requests_that_were_all_refused_for_themselves_are_told_as_such() -> None:
    with pytest.raises(RequestRefused) as caught:
        await finish_all([failing(REFUSED), failing(RequestRefused("too hot", endpoint="policy"))])
    assert caught.value is REFUSED


@pytest.mark.parametrize("error", [SPENT, ZeroDivisionError("ours")])
async def test_what_is_no_trouble_of_others_goes_before_trouble(error: Exception) -> None:
    with pytest.raises(type(error)):
        await finish_all([failing(REFUSED), failing(error), failing(REFUSED)])


async def test_cancellation_ends_all_of_it() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await finish_all([anyio.sleep_forever, anyio.sleep_forever])
    assert scope.cancelled_caught
