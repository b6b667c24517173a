"""`cso demo`, killed or stopped in the middle and typed again: the same pairs, and nothing paid for twice."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import orjson
import pytest

from tests.acceptance.facts import Facts, RequestKey, facts_of, paid_requests
from tests.acceptance.programs import DEADLINE_S, cso, start, until_paid
from tests.crash.processes import descendants, wait_until_gone
from tests.folders import reachable_folder

TASKS = 5


@dataclass(frozen=True, slots=True)
class Uninterrupted:
    """A demo that was left alone: its data set, its facts and the number of its requests."""

    dataset: bytes
    facts: Facts
    requests: int


def demo(data: Path) -> tuple[str | Path, ...]:
    """The command that is typed again and again."""
    return "demo", "--data", data, "--tasks", str(TASKS), "--json"


@pytest.fixture(scope="module")
async def uninterrupted() -> AsyncIterator[Uninterrupted]:
    with reachable_folder() as folder:
        data = folder / "data"
        ended = await cso(*demo(data))
        assert ended.status == 0
        yield Uninterrupted(dataset_of(ended.json), facts_of(data), len(requests_of(data)))


def dataset_of(summary: dict[str, Any]) -> bytes:
    return Path(summary["dataset"]).read_bytes()


def requests_of(data: Path) -> list[dict[str, Any]]:
    """The server's own record of all lives of the demo, by the time at which they came."""
    lines = (data / "requests.jsonl").read_bytes().splitlines()
    return sorted(map(orjson.loads, lines), key=lambda request: float(request["started"]))


def keys(requests: Iterable[dict[str, Any]]) -> Counter[RequestKey]:
    """What was asked, and where from; headers and bodies that are equal have equal keys."""
    return Counter(
        (request["digest"], *(request["headers"][name] for name in ("trajectory", "step", "role", "module")))
        for request in requests
    )


async def end(process: anyio.abc.Process, number: signal.Signals) -> int:
    """Send a signal as a terminal or a supervisor does, and wait until nothing of the demo is left."""
    started = descendants(process.pid)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    status = await process.wait()
    assert await wait_until_gone(started) == []
    return status


async def test_a_demo_killed_again_and_again_makes_the_same_pairs_and_pays_for_nothing_twice(
    uninterrupted: Uninterrupted, data: Path
) -> None:
    began: list[tuple[float, set[RequestKey]]] = []
    with anyio.fail_after(DEADLINE_S):
        for share in (0.15, 0.45, 0.75):
            began.append((anyio.current_time(), paid_requests(data)))
            async with await start(*demo(data)) as process:
                await until_paid(data, int(share * uninterrupted.requests))
                assert await end(process, signal.SIGKILL) == -signal.SIGKILL
        began.append((anyio.current_time(), paid_requests(data)))
        ended = await cso(*demo(data))
    assert ended.status == 0
    assert dataset_of(ended.json) == uninterrupted.dataset
    assert facts_of(data).differences(uninterrupted.facts) == []
    requests = requests_of(data)
    for moment, paid in began:
        # The record's clock is the kernel's, which all processes share.
        assert keys(request for request in requests if request["started"] > moment).keys() & paid == set()
    made = keys(requests)
    assert made.keys() == paid_requests(data)
    assert made.total() - len(made) == len(requests) - uninterrupted.requests


async def test_a_demo_that_was_stopped_goes_on_and_repeats_no_request_at_all(
    uninterrupted: Uninterrupted, data: Path
) -> None:
    with anyio.fail_after(DEADLINE_S):
        for share, number, status in ((0.3, signal.SIGTERM, 0), (0.7, signal.SIGINT, 130)):
            async with await start(*demo(data)) as process:
                await until_paid(data, int(share * uninterrupted.requests))
                assert await end(process, number) == status
            assert keys(requests_of(data)).keys() == paid_requests(data)
        ended = await cso(*demo(data))
    assert ended.status == 0
    assert dataset_of(ended.json) == uninterrupted.dataset
    assert facts_of(data).differences(uninterrupted.facts) == []
    requests = requests_of(data)
    assert {request["status"] for request in requests} == {200}
    assert len(requests) == len(keys(requests)) == uninterrupted.requests


async def test_a_demo_that_is_done_calls_nobody_when_it_is_typed_again(data: Path) -> None:
    first = await cso("demo", "--data", data, "--tasks", "1", "--json")
    made = len(requests_of(data))
    again = await cso("demo", "--data", data, "--tasks", "1", "--json")
    assert (first.status, again.status) == (0, 0)
    assert again.json == first.json
    assert len(requests_of(data)) == made > 0
