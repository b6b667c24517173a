"""LLaMA-Factory's preference data: a ShareGPT file for `stage: dpo`, and the `dataset_info.json` that describes it.

Roles are kept: the system message goes into its own column, user and assistant take turns as `human` and `gpt`, and
the conversation ends with the user's turn that the two answers reply to, as LLaMA-Factory requires.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from itertools import takewhile
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
_EMPTY = b"[]\n"
_OPENING = b"[\n{\n"  # of a file with pairs, each of which ends with a line that begins with a brace
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


class UnreadableInfoError(StoreError):
    """Raised when the `dataset_info.json` of a folder is none, so that its other entries would be lost."""

    def __init__(self, info: Path, reason: str) -> None:
        super().__init__(f"{info} cannot be read ({reason}): mend or remove it, or export to another folder")


def exported(folder: Path) -> Mapping[str, JsonValue] | None:
    """The provenance of the first pair of an export that lies in a folder; None where there is no pair.

    It is empty where the file of that name is none that `write_pairs` wrote.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with (folder / FILE_NAME).open("rb") as file:
            head = file.read(len(_OPENING))
            if head == _EMPTY:
                return None
            rest = takewhile(lambda line: not line.startswith(b"}"), file if head == _OPENING else ())
            first = b"{" + b"".join(rest) + b"}"
    except FileNotFoundError:
        return None
    try:
        found = orjson.loads(first).get("provenance")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


async def write_pairs(pairs: AsyncIterator[Pair], folder: Path) -> int:
    """Write both files into a folder, made if it is missing; the number of pairs.

    Each file appears whole or not at all. An entry of another data set in `dataset_info.json` is kept.

    Raises:
        UnfitPairError: a pair cannot be written in this form; nothing has been replaced then.
        UnreadableInfoError: what `dataset_info.json` holds cannot be kept; likewise.
        OSError: the folder cannot be written to.
    """
    await anyio.to_thread.run_sync(lambda: folder.mkdir(parents=True, exist_ok=True))
    await anyio.to_thread.run_sync(_described, folder)
    draft, written = _draft_of(folder / FILE_NAME), 0
    try:
        with await anyio.to_thread.run_sync(draft.open, "xb") as file:
            async for pair in pairs:
                line = orjson.dumps(example(pair), option=orjson.OPT_INDENT_2)
                await anyio.to_thread.run_sync(file.write, (b"[\n" if written == 0 else b",\n") + line)
                written += 1
            await anyio.to_thread.run_sync(file.write, _EMPTY if written == 0 else b"\n]\n")
            await anyio.to_thread.run_sync(_sync, file)
        await anyio.to_thread.run_sync(_finish, draft, folder)
    finally:
        draft.unlink(missing_ok=True)
    return written


def _split(prompt: tuple[Message, ...]) -> tuple[str, tuple[Message, ...]]:
    if prompt and prompt[0].role == "system":
        return prompt[0].content, prompt[1:]
    return "", prompt


def _described(folder: Path) -> dict[str, JsonValue]:
    """What the folder's description holds already.

    Raises:
        UnreadableInfoError: that is not what a trainer could read.
    """
    info = folder / INFO_NAME
    try:
        described = orjson.loads(info.read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError as error:
        raise UnreadableInfoError(info, str(error)) from error
    if not isinstance(described, dict):
        raise UnreadableInfoError(info, "it is no JSON object")
    return described


def _draft_of(path: Path) -> Path:
    """Where to write what will take the place of a file: apart from whoever else writes that."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _finish(draft: Path, folder: Path) -> None:
    """Put the data in place first: a description without its file would break the trainer's whole folder."""
    draft.replace(folder / FILE_NAME)
    info = folder / INFO_NAME
    described = _draft_of(info)
    try:
        with described.open("xb") as file:
            file.write(orjson.dumps({**_described(folder), **dataset_info()}, option=orjson.OPT_INDENT_2))
            _sync(file)
        described.replace(info)
    finally:
        described.unlink(missing_ok=True)
