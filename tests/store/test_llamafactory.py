"""The trainer's file: pairs with their roles kept, whole or not at all, beside whatever the folder held."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from store.database import Database
from store.export import Pair, load_pair, load_pairs
from store.formats.llamafactory import (
    FILE_NAME,
    INFO_NAME,
    UnfitPairError,
    UnreadableInfoError,
    example,
    exported,
    provenance,
    write_pairs,
)
from store.messages import Message
from store.pairs import Evidence, add_pair
from tests.store.filling import PROMPT, new_run, new_trajectory, score_step

EVIDENCE = Evidence(successes=2, rollouts=3, control_successes=1, controls=2)
PAIR = Pair(
    id=1,
    run="r",
    digest="d",
    task="t",
    trajectory="t/0",
    step=1,
    prompt=PROMPT,
    chosen="Thought: übung.\nCode:\n```python\nprint('✓')\n```",
    rejected="Thought: no.\nCode:\n```python\nprint('✗')\n```",
    chosen_score=0.9,
    rejected_score=0.1,
    evidence=EVIDENCE,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def stream(pairs: Sequence[Pair]) -> AsyncIterator[Pair]:
    for pair in pairs:
        yield pair


def test_roles_are_kept_and_the_system_message_has_its_own_column() -> None:
    found = example(PAIR)
    assert found["system"] == "Rules of the policy."
    assert found["conversations"] == [
        {"from": "human", "value": PROMPT[1].content},
        {"from": "gpt", "value": PROMPT[2].content},
        {"from": "human", "value": PROMPT[3].content},
    ]
    assert found["chosen"] == {"from": "gpt", "value": PAIR.chosen}
    assert found["rejected"] == {"from": "gpt", "value": PAIR.rejected}


def test_a_prompt_without_a_system_message_has_an_empty_one() -> None:
    assert example(replace(PAIR, prompt=PROMPT[1:]))["system"] == ""


@pytest.mark.parametrize(
    "roles",
    [(), ("assistant",), ("user", "assistant"), ("user", "user", "assistant"), ("user", "assistant", "assistant")],
)
def test_a_prompt_that_the_trainer_would_take_apart_wrongly_is_refused(roles: tuple[str, ...]) -> None:
    prompt = tuple(Message("user" if role == "user" else "assistant", "text") for role in roles)
    with pytest.raises(UnfitPairError, match=r"pair 1 \(t/0, step 1\)"):
        example(replace(PAIR, prompt=(PROMPT[0], *prompt)))


async def test_the_file_is_a_json_array_in_utf_8_with_its_description_beside_it(tmp_path: Path) -> None:
    assert await write_pairs(stream([PAIR, replace(PAIR, id=2, step=2)]), tmp_path / "new" / "folder") == 2
    folder = tmp_path / "new" / "folder"
    rows = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    assert [row["provenance"]["step"] for row in rows] == [1, 2]
    assert "✓" in (folder / FILE_NAME).read_text(encoding="utf-8")
    described = json.loads((folder / INFO_NAME).read_text(encoding="utf-8"))["verified_cso_dpo"]
    assert described["file_name"] == FILE_NAME
    assert described["ranking"] is True
    assert {described["columns"][name] for name in ("messages", "chosen", "rejected", "system")} <= rows[0].keys()
    assert sorted(path.name for path in folder.iterdir()) == [INFO_NAME, FILE_NAME]


async def test_no_pairs_are_an_empty_array(tmp_path: Path) -> None:
    assert await write_pairs(stream([]), tmp_path) == 0
    assert json.loads((tmp_path / FILE_NAME).read_text()) == []


async def test_descriptions_of_other_data_sets_in_the_folder_are_kept(tmp_path: Path) -> None:
    (tmp_path / INFO_NAME).write_text(json.dumps({"mine": {"file_name": "mine.json"}, "verified_cso_dpo": {}}))
    await write_pairs(stream([PAIR]), tmp_path)
    described = json.loads((tmp_path / INFO_NAME).read_text())
    assert described["mine"] == {"file_name": "mine.json"}
    assert described["verified_cso_dpo"]["file_name"] == FILE_NAME


@pytest.mark.parametrize("held", [b"", b"[]", b'{"other": 1} // mine', b"\xef\xbb\xbf{}", b"\xff"])
async def test_a_description_that_cannot_be_kept_is_an_error_before_anything_is_written(
    tmp_path: Path, held: bytes
) -> None:
    (tmp_path / INFO_NAME).write_bytes(held)
    with pytest.raises(UnreadableInfoError, match="mend or remove it, or export to another folder"):
        await write_pairs(stream([PAIR]), tmp_path)
    assert names_in(tmp_path) == [INFO_NAME]
    assert (tmp_path / INFO_NAME).read_bytes() == held


async def test_an_export_tells_whose_it_is(tmp_path: Path) -> None:
    assert exported(tmp_path) is None
    await write_pairs(stream([]), tmp_path)
    assert exported(tmp_path) is None
    tricky = replace(PAIR, chosen="}\n}\n", run="first")
    await write_pairs(stream([tricky, replace(PAIR, run="second")]), tmp_path)
    assert exported(tmp_path) == provenance(tricky)
    for other in (b"", b"[]", b"[\n", b"[\n{\n", b'[\n{\n"x": 1\n}\n]', b'{"provenance": {"run": "r"}}', bytes(1000)):
        (tmp_path / FILE_NAME).write_bytes(other)
        assert exported(tmp_path) == {}


async def test_two_exports_into_one_folder_at_once_leave_one_of_the_two(tmp_path: Path) -> None:
    lots = [[replace(PAIR, id=number, step=number) for number in range(count)] for count in (20, 30)]
    async with anyio.create_task_group() as tasks:
        for pairs in lots:
            tasks.start_soon(write_pairs, stream(pairs), tmp_path)
    assert len(json.loads((tmp_path / FILE_NAME).read_text())) in (20, 30)
    assert names_in(tmp_path) == [INFO_NAME, FILE_NAME]


async def test_an_export_that_fails_leaves_the_last_one_as_it_was(tmp_path: Path) -> None:
    await write_pairs(stream([PAIR]), tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(UnfitPairError):
        await write_pairs(stream([PAIR, replace(PAIR, prompt=PROMPT[:1])]), tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


async def test_pairs_leave_the_store_with_prompt_scores_evidence_and_the_digest_that_they_were_made_under(
    tmp_path: Path,
) -> None:
    async with Database(tmp_path) as database:
        run = await new_run(database)
        failed = await new_trajectory(database, steps=3, outcome="failure")
        for step in (2, 1):
            _, alternative = await score_step(database, failed, step, [0.1, 0.9])
            add = partial(
                add_pair, run=run.id, task=1, trajectory=failed, step=step, candidate=alternative, evidence=EVIDENCE
            )
            await database.write(add)
        pairs = [pair async for pair in load_pairs(database, run)]
        with pytest.raises(LookupError):
            await load_pair(database, run, 999)
    assert [pair.step for pair in pairs] == [1, 2]
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        (f"candidate 1 of step {step}", f"candidate 0 of step {step}") for step in (1, 2)
    ]
    assert {pair.prompt for pair in pairs} == {PROMPT}
    assert pairs[0].evidence == EVIDENCE
    assert (pairs[0].chosen_score, pairs[0].rejected_score) == (0.9, 0.1)
    assert (pairs[0].digest, pairs[0].trajectory, pairs[0].task) == ("digest of r", "t/0", "t")
