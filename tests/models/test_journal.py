"""The journal over a real database and real HTTP: a reply is kept before it is used, and bought once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from runtime.errors import InfrastructureError
from runtime.models.endpoint import Endpoint
from runtime.models.errors import ContentFiltered, ContextOverflow
from runtime.models.journal import Journal, Models, Role
from runtime.models.settings import EndpointSettings
from store.calls import FILTERED, load_request
from store.database import Database
from store.formats.task_files import TaskRecord
from store.messages import Message
from store.runs import create_run
from store.tasks import Task, load_task, submit_task
from store.trajectories import Trajectory, begin_trajectory, load_trajectory
from store.transaction import Transaction
from tests.acceptance.scripted import (
    CUT_OFF,
    FILTER,
    OVERFLOW,
    Answer,
    Ask,
    Refusal,
    Said,
    ScriptedModels,
    scripted_models,
)

DEADLINE_S = 30
PROMPT = (Message("system", "Rules."), Message.joined("user", "Task: ", "What? " * 30))


@dataclass(slots=True)
class Desk:
    """A trajectory's journal, and all that stands around it."""

    server: ScriptedModels
    database: Database
    models: Models
    trajectory: Trajectory
    task: Task

    async def journal(self) -> Journal:
        """The journal as a process that has just come finds it."""
        return await self.models.journal(self.trajectory, self.task)

    async def calls(self) -> int:
        """How many replies are kept."""
        row = await self.database.fetch_one("SELECT count(*) AS n FROM calls")
        assert row is not None
        return int(row["n"])


@contextlib.asynccontextmanager
async def desk(folder: Path, answer: Answer, *, seed: int = 5, trace_headers: bool = True) -> AsyncIterator[Desk]:
    async with scripted_models(answer) as server, Database(folder) as database:
        settings = EndpointSettings(name="policy", base_url=server.url, attempts=1, timeout=20.0, deadline=20.0)
        async with Endpoint(settings) as endpoint:
            role = Role(endpoint=endpoint, model="m", temperature=0.5, top_p=None, max_tokens=9, send_seed=True)
            roles = {"policy": role, "prm": replace(role, send_seed=False)}
            models = Models(roles, database=database, seed=seed, trace_headers=trace_headers)

            def begin(transaction: Transaction) -> int:
                run = create_run(transaction, name="r", digest="d", identity={}).id
                submit_task(transaction, run=run, record=TaskRecord("Größe 5", "question", "answer", None, {}))
                return begin_trajectory(transaction, task=1, ordinal=0)

            trajectory = await load_trajectory(database, await database.write(begin))
            with anyio.fail_after(DEADLINE_S):
                yield Desk(server, database, models, trajectory, await load_task(database, 1))


async def count_up(ask: Ask) -> str | int:
    return f"reply to {ask.seed if 'seed' in ask.body else 'no seed'}"


async def test_a_reply_is_bought_once_by_all_processes_that_ask_for_it(tmp_path: Path) -> None:
    async with desk(tmp_path, count_up) as some:
        first, later = await some.journal(), None
        bought = await first.ask(role="policy", module="action", step=3, messages=PROMPT)
        assert await first.ask(role="policy", module="action", step=3, messages=PROMPT) == bought
        later = await some.journal()
        kept = await later.ask(role="policy", module="action", step=3, messages=PROMPT)
        assert (kept.call, kept.content) == (bought.call, bought.content)
        assert len(some.server.asks) == await some.calls() == 1


async def test_where_a_call_is_bought_twice_all_go_on_with_the_reply_that_is_kept(tmp_path: Path) -> None:
    async def numbered(_ask: Ask) -> str | int:
        return f"reply {len(some.server.asks)}"

    async with desk(tmp_path, numbered) as some:
        # That both begin before either has asked is what nothing in the runtime does.
        first, second = await some.journal(), await some.journal()
        replies = [
            await each.ask(role="policy", module="action", step=3, messages=PROMPT) for each in (first, second)
        ]
        assert [(reply.call, reply.content) for reply in replies] == [(replies[0].call, "reply 1")] * 2
        assert (len(some.server.asks), await some.calls()) == (2, 1)


async def test_a_reply_is_kept_before_anyone_gets_it(tmp_path: Path) -> None:
    async with desk(tmp_path, count_up) as some:
        reply = await (await some.journal()).ask(role="policy", module="plan", step=0, messages=PROMPT)
        row = await some.database.fetch_one("SELECT id, step, module, role, ordinal FROM calls")
        assert row is not None
        assert tuple(row) == (reply.call, 0, "plan", "policy", 0)
        assert await load_request(some.database, reply.call) == PROMPT


async def test_another_request_from_the_same_place_is_another_entry(tmp_path: Path) -> None:
    async with desk(tmp_path, count_up) as some:
        journal = await some.journal()
        await journal.ask(role="policy", module="action", step=0, messages=PROMPT)
        await journal.ask(role="policy", module="action", step=0, messages=PROMPT[1:])
        assert await some.calls() == len(some.server.asks) == 2


async def test_another_place_is_another_entry_for_the_same_request(tmp_path: Path) -> None:
    async with desk(tmp_path, count_up) as some:
        journal = await some.journal()
        for step, role, module, ordinal in (
            (0, "policy", "a", 0),
            (1, "policy", "a", 0),
            (0, "prm", "a", 0),
            (0, "policy", "b", 0),
            (0, "policy", "a", 1),
        ):
            await journal.ask(role=role, module=module, step=step, messages=PROMPT, ordinal=ordinal)
        assert await some.calls() == len(some.server.asks) == 5


async def test_a_reply_that_is_on_its_way_when_its_caller_is_cancelled_is_kept(tmp_path: Path) -> None:
    arrived, release = anyio.Event(), anyio.Event()

    async def slow(ask: Ask) -> str | int:
        arrived.set()
        await release.wait()
        return await count_up(ask)

    async with desk(tmp_path, slow) as some:
        journal = await some.journal()

        async def ask() -> None:
            await journal.ask(role="policy", module="action", step=0, messages=PROMPT)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await arrived.wait()
            tasks.cancel_scope.cancel()
            release.set()
        await some.database.write(lambda _transaction: None)  # behind whatever is in line
        assert await some.calls() == 1
        again = await (await some.journal()).ask(role="policy", module="action", step=0, messages=PROMPT)
        assert again.content.startswith("reply")
        assert len(some.server.asks) == 1


async def test_what_an_endpoint_fails_to_answer_is_no_entry(tmp_path: Path) -> None:
    async def broken(_ask: Ask) -> str | int:
        return 500

    async with desk(tmp_path, broken) as some:
        with pytest.raises(InfrastructureError):
            await (await some.journal()).ask(role="policy", module="action", step=0, messages=PROMPT)
        assert await some.calls() == 0


@pytest.mark.parametrize(("refusal", "billed"), [(FILTER, 0), (CUT_OFF, 18)])
async def test_a_filters_refusal_is_met_again_by_all_who_ask_and_the_filter_is_asked_once(
    refusal: Refusal, billed: int, tmp_path: Path
) -> None:
    async def refuse(_ask: Ask) -> Said:
        return refusal

    async with desk(tmp_path, refuse) as some:
        said = set()
        for _ in range(2):
            journal = await some.journal()
            for _ in range(2):
                with pytest.raises(ContentFiltered) as caught:
                    await journal.ask(role="policy", module="action", step=3, messages=PROMPT)
                said.add(str(caught.value))
        assert len(some.server.asks) == await some.calls() == 1
        assert len(said) == 1
        row = await some.database.fetch_one(
            "SELECT id, finish_reason, attempts, prompt_tokens + completion_tokens AS tokens FROM calls"
        )
        assert row is not None
        assert (row["finish_reason"], row["attempts"], row["tokens"]) == (FILTERED, 1, billed)
        assert await load_request(some.database, row["id"]) == PROMPT


async def test_a_refusal_that_is_not_to_be_kept_is_asked_anew_each_time(tmp_path: Path) -> None:
    said: list[Said] = [FILTER, FILTER, "at last"]

    async def relent(_ask: Ask) -> Said:
        return said.pop(0)

    async with desk(tmp_path, relent) as some:
        for count in (1, 2):
            with pytest.raises(ContentFiltered):
                await (await some.journal()).ask(
                    role="policy", module="action", step=0, messages=PROMPT, keep_refusal=False
                )
            assert await some.calls() == count, "it may have been billed"
        reply = await (await some.journal()).ask(
            role="policy", module="action", step=0, messages=PROMPT, keep_refusal=False
        )
        assert reply.content == "at last"


async def test_a_refusal_that_is_on_its_way_when_its_caller_is_cancelled_is_kept(tmp_path: Path) -> None:
    arrived, release = anyio.Event(), anyio.Event()

    async def slow(_ask: Ask) -> Said:
        arrived.set()
        await release.wait()
        return FILTER

    async with desk(tmp_path, slow) as some:
        journal = await some.journal()

        async def ask() -> None:
            await journal.ask(role="policy", module="action", step=0, messages=PROMPT)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await arrived.wait()
            tasks.cancel_scope.cancel()
            release.set()
        await some.database.write(lambda _transaction: None)  # behind whatever is in line
        assert await some.calls() == 1


async def test_messages_that_are_too_long_are_no_entry_and_are_asked_anew(tmp_path: Path) -> None:
    said: list[Said] = [OVERFLOW, "it fits now"]

    async def grow(_ask: Ask) -> Said:
        return said.pop(0)

    async with desk(tmp_path, grow) as some:
        journal = await some.journal()
        with pytest.raises(ContextOverflow):
            await journal.ask(role="policy", module="action", step=0, messages=PROMPT)
        assert await some.calls() == 0
        reply = await journal.ask(role="policy", module="action", step=0, messages=PROMPT)
        assert reply.content == "it fits now"


async def test_seeds_hang_on_the_runs_seed_and_the_place_alone_and_follow_each_other(tmp_path: Path) -> None:
    seeds = []
    for number, seed in enumerate((5, 5, 6)):
        async with desk(tmp_path / str(number), count_up, seed=seed) as some:
            journal = await some.journal()
            for ordinal in range(3):
                await journal.ask(role="policy", module="action", step=2, messages=PROMPT, ordinal=ordinal)
            seeds.append([ask.seed for ask in some.server.asks])
    assert seeds[0] == seeds[1] == list(range(seeds[0][0], seeds[0][0] + 3))
    assert seeds[2] != seeds[0]
    assert all(0 <= seed < 2**31 for each in seeds for seed in each)


async def test_a_role_without_seeds_and_a_run_with_seed_0_send_none(tmp_path: Path) -> None:
    async with desk(tmp_path / "a", count_up) as some:
        await (await some.journal()).ask(role="prm", module="score", step=0, messages=PROMPT)
        assert "seed" not in some.server.asks[0].body
    async with desk(tmp_path / "b", count_up, seed=0) as some:
        await (await some.journal()).ask(role="policy", module="action", step=0, messages=PROMPT)
        assert "seed" not in some.server.asks[0].body


async def test_headers_name_the_place_in_characters_that_http_can_carry(tmp_path: Path) -> None:
    async with desk(tmp_path, count_up) as some:
        await (await some.journal()).ask(role="policy", module="action", step=7, messages=PROMPT)
        (ask,) = some.server.asks
    assert (ask.role, ask.module, ask.step) == ("policy", "action", 7)
    assert (ask.task, ask.trajectory) == ("Gr%C3%B6%C3%9Fe 5", "Gr%C3%B6%C3%9Fe 5/0")


async def test_sampling_parameters_go_along_and_those_left_open_do_not(tmp_path: Path) -> None:
    async with desk(tmp_path, count_up) as some:
        await (await some.journal()).ask(role="policy", module="action", step=0, messages=PROMPT)
        body = some.server.asks[0].body
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.5, 9)
    assert "top_p" not in body
