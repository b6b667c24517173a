"""LLaMA-Factory's preference data: a ShareGPT file for `stage: dpo`, and the `dataset_info.json` that describes it.

Roles are kept: the system message goes into its own column, user and assistant take turns as `human` and `gpt`, and
the conversation ends with the user's turn that the two answers reply to, as LLaMA-Factory requires.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import anyio
import orjson

from store.errors import StoreError
from store.export import Pair
from store.jsontypes import JsonValue
from store.messages import Message

DATASET = "verified_cso_dpo"
FILE_NAME = f"{DATASET}.json"
INFO_NAME = "dataset_info.json"
_SPEAKERS = {"user": "human", "assistant": "gpt"}


class UnfitPairError(StoreError):
    """Raised when a pair's prompt cannot be written as turns that alternate and end with the user."""


def example(pair: Pair) -> dict[str, JsonValue]:
    """A pair as LLaMA-Factory reads it, with its provenance in a column that training ignores.

    Raises:
        UnfitPairError: the prompt's roles do not alternate as the trainer wants them.
    """
    system, turns = _split(pair.prompt)
    expected = ["user" if number % 2 == 0 else "assistant" for number in range(len(turns))]
    if [turn.role for turn in turns] != expected or len(turns) % 2 == 0:
        raise UnfitPairError(
            f"pair {pair.id} ({pair.trajectory}, step {pair.step}):"
            " user and assistant do not take turns in its prompt"
        )
    return {
        "conversations": [{"from": _SPEAKERS[turn.role], "value": turn.content} for turn in turns],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "system": system,
        "provenance": provenance(pair),
    }


def provenance(pair: Pair) -> dict[str, JsonValue]:
    """Where a pair comes from and what verified it."""
    evidence = pair.evidence
    return {
        "run": pair.run,
        "digest": pair.digest,
        "task": pair.task,
        "trajectory": pair.trajectory,
        "step": pair.step,
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
        "successes": evidence.successes,
        "rollouts": evidence.rollouts,
        "control_successes": evidence.control_successes,
        "controls": evidence.controls,
    }


def dataset_info() -> dict[str, JsonValue]:
    """The description under which LLaMA-Factory finds the file."""
    return {
        DATASET: {
            "file_name": FILE_NAME,
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {
                "messages": "conversations",
                "chosen": "chosen",
                "rejected": "rejected",
                "system": "system",
            },
        }
    }


async def write_pairs(pairs: AsyncIterator[Pair], folder: Path) -> int:
    """Write both files into a folder, made if it is missing; the number of pairs.

    Each file appears whole or not at all. An entry of another data set in `dataset_info.json` is kept.

    Raises:
        UnfitPairError: a pair cannot be written in this form; nothing has been replaced then.
        OSError: the folder cannot be written to.
    """
    await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True, exist_ok=True))
    draft = folder / f".{FILE_NAME}.part"
    written = 0
    with await anyio.to_thread.run_sync(lambda: draft.open("wb")) as file:
        async for pair in pairs:
            line = orjson.dumps(example(pair), option=orjson.OPT_INDENT_2)
            await anyio.to_thread.run_sync(_append, file, (b"[\n" if written == 0 else b",\n") + line)
            written += 1
        await anyio.to_thread.run_sync(_append, file, b"[]\n" if written == 0 else b"\n]\n")
    await anyio.to_thread.run_sync(_finish, draft, folder)
    return written


def _split(prompt: tuple[Message, ...]) -> tuple[str, tuple[Message, ...]]:
    if prompt and prompt[0].role == "system":
        return prompt[0].content, prompt[1:]
    return "", prompt


def _append(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _finish(draft: Path, folder: Path) -> None:
    """Put the data in place first: a description without its file would break the trainer's whole folder."""
    draft.replace(folder / FILE_NAME)
    info = folder / INFO_NAME
    described: dict[str, JsonValue] = orjson.loads(info.read_bytes()) if info.exists() else {}
    draft_info = folder / f".{INFO_NAME}.part"
    with draft_info.open("wb") as file:
        file.write(orjson.dumps({**described, **dataset_info()}, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    draft_info.replace(info)
