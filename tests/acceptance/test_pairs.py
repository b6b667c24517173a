"""What leaves the store is what happened: the request that the policy got, and the actions that were executed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.agents.main.agent import MainAgent
from runtime.agents.main.replies import parse_reply
from runtime.simulation.record import Entry
from runtime.simulation.standins import Standins
from store.database import Reader
from store.export import Pair, load_pairs
from store.formats.llamafactory import FILE_NAME, write_pairs
from store.runs import list_runs
from store.trajectories import load_steps, load_trajectory
from tests.acceptance.running import Finished

SPEAKERS = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class Exported:
    """Each pair as the store gives it and as it stands in the trainer's file."""

    pairs: Sequence[tuple[Pair, Mapping[str, Any]]]


@pytest.fixture
async def exported(finished: Finished, tmp_path: Path) -> Exported:
    async with Reader(finished.data) as reader:
        (run,) = await list_runs(reader)
        pairs = [pair async for pair in load_pairs(reader, run)]
        assert await write_pairs(load_pairs(reader, run), tmp_path) == len(pairs) == finished.summary.pairs > 3
    rows = json.loads((tmp_path / FILE_NAME).read_text())
    return Exported(list(zip(pairs, rows, strict=True)))


def action_request(finished: Finished, trajectory: str, step: int) -> Entry:
    """The one request for a policy's action that the server had from a step."""
    (found,) = (
        entry
        for entry in finished.requests
        if (entry.headers["role"], entry.headers["module"]) == ("policy", "action")
        and (entry.headers["trajectory"], entry.headers["step"]) == (trajectory, str(step))
    )
    return found


async def test_the_exported_prompt_is_message_by_message_what_the_policys_endpoint_received(
    finished: Finished, exported: Exported
) -> None:
    for pair, row in exported.pairs:
        entry = action_request(finished, pair.trajectory, pair.step)
        received = json.loads(entry.body)["messages"]
        turns = [{"role": SPEAKERS[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
        assert [{"role": "system", "content": row["system"]}, *turns] == received
        assert (row["provenance"]["trajectory"], row["provenance"]["step"]) == (pair.trajectory, pair.step)
        assert entry.headers["task"] == pair.task


async def test_chosen_reads_back_to_exactly_the_action_that_the_branch_executed(
    finished: Finished, exported: Exported
) -> None:
    agent = MainAgent()
    async with Reader(finished.data) as reader:
        for pair, row in exported.pairs:
            executed = await reader.fetch_one(
                "SELECT t.id, t.fork FROM pairs p JOIN trajectories t ON t.candidate = p.candidate"
                " WHERE p.id = ? AND t.outcome = 'success'",
                (pair.id,),
            )
            assert executed is not None
            branch = await load_steps(reader, await load_trajectory(reader, executed["id"]))
            action = await agent.read(branch[executed["fork"]].action)
            chosen = await agent.read(row["chosen"]["value"])
            assert (chosen.code, chosen.thought, chosen.problem) == (action.code, action.thought, None)
            assert row["chosen"]["from"] == "gpt"


async def test_rejected_reads_back_to_exactly_the_action_that_the_trajectory_executed(
    finished: Finished, exported: Exported
) -> None:
    agent = MainAgent()
    async with Reader(finished.data) as reader:
        for pair, row in exported.pairs:
            parent = await reader.fetch_one("SELECT trajectory FROM pairs WHERE id = ?", (pair.id,))
            assert parent is not None
            steps = await load_steps(reader, await load_trajectory(reader, parent["trajectory"]))
            action = await agent.read(steps[pair.step].action)
            rejected = await agent.read(row["rejected"]["value"])
            assert (rejected.code, rejected.thought, rejected.problem) == (action.code, action.thought, None)


async def test_chosen_and_rejected_are_what_expert_and_policy_really_said(
    finished: Finished, exported: Exported
) -> None:
    """Asked of the stand-ins once more, which always say the same: nothing in between changed the code."""
    standins = Standins(finished.world)
    for pair, row in exported.pairs:
        policy = standins.reply(json.loads(action_request(finished, pair.trajectory, pair.step).body))
        assert parse_reply(row["rejected"]["value"]) == parse_reply(policy)
        proposals = [
            parse_reply(standins.reply(json.loads(entry.body)))
            for entry in finished.requests
            if entry.role == "expert"
            and (entry.headers["trajectory"], entry.headers["step"]) == (pair.trajectory, str(pair.step))
        ]
        assert parse_reply(row["chosen"]["value"]) in proposals


async def test_a_pair_says_where_it_comes_from_and_what_verified_it(exported: Exported) -> None:
    for pair, row in exported.pairs:
        provenance = row["provenance"]
        assert provenance["task"] == pair.task
        assert (provenance["successes"], provenance["rollouts"], provenance["controls"]) == (1, 1, 0)
        assert provenance["chosen_score"] > 0.6
        assert provenance["rejected_score"] < 0.5
        assert len(provenance["digest"]) == 32
