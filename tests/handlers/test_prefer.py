"""Prefer: one pair for each verified step and alternative, whichever branch ends last and however often told."""

from __future__ import annotations

from operator import methodcaller
from pathlib import Path

import anyio

from runtime.daemon import open_daemon
from store.database import Reader
from store.deliveries import count_owed
from store.events import BranchCompleted, Event, PairVerified
from tests.acceptance.running import settings_for
from tests.acceptance.scripted import Script, play

SCRIPT = Script(
    actions=("print('policy')", "import os\nstop('42' if os.path.exists('found') else 'wrong', '')"),
    alternatives={0: ("print('idle')", "open('found', 'w').close()", "open('found', 'a').close()")},
    scores={"print('policy')": "Score: 0.1", "print('idle')": "Score: 0.7", "open('found'": "Score: 0.8"},
)
ALL = {"resample.alternatives": 3, "verify.first_success": False}


async def pairs_of(data: Path) -> list[tuple[int, int, int]]:
    async with Reader(data) as reader:
        rows = await reader.fetch("SELECT candidate, successes, rollouts FROM pairs ORDER BY candidate")
    return [(row["candidate"], row["successes"], row["rollouts"]) for row in rows]


async def test_each_alternative_that_flips_the_outcome_makes_one_pair(data: Path) -> None:
    played = await play(SCRIPT.answer, data, changes=ALL)
    told = [event for event in played.events if isinstance(event, PairVerified)]
    assert len(told) == len(await pairs_of(data)) == 2
    assert {event.step for event in told} == {0}
    assert len({event.candidate for event in told}) == 2


async def test_several_rollouts_make_one_pair_with_all_of_them_as_evidence(data: Path) -> None:
    await play(SCRIPT.answer, data, changes={**ALL, "verify.rollouts": 3})
    assert [(successes, rollouts) for _, successes, rollouts in await pairs_of(data)] == [(3, 3), (3, 3)]


async def test_a_branch_that_is_told_of_again_makes_no_second_pair(data: Path) -> None:
    played = await play(SCRIPT.answer, data, changes=ALL)
    before = await pairs_of(data)
    again = [event for event in played.events if isinstance(event, BranchCompleted)]
    seen: list[Event] = []
    settings = settings_for("http://127.0.0.1:9/v1", data, ALL)
    with anyio.fail_after(30):
        async with open_daemon(settings, {}, watchers=[seen.append]) as daemon:
            for event in again:
                await daemon.database.write(methodcaller("publish", event))
            await daemon.work(until_drained=True)
            assert not await count_owed(daemon.database, [daemon.run.id])
    assert await pairs_of(data) == before
    assert not any(isinstance(event, PairVerified) for event in seen)
