"""Task files: JSON lines in, task records out, each fault with its line.

A line is one JSON object. Fields are looked for inside its `info` object first, if it has one, then in the record:

- the question, text: `question`, `task`, `query`, `ques`, `instruction`, or one of them capitalised;
- the reference answer: `answer`, `Answer`, `Final answer`, `true_answer`, `ground_truth`. Text stays as it is, a
  number becomes its JSON text, a list of texts and numbers a comma-separated list. A boolean is refused, because
  nobody can tell whether "true", "yes" or "correct" is expected;
- the name, optional: `id` or `task_id`, text or an integer;
- a file that belongs to the task, optional: `file_name`, a path below the task file's folder.

A task without an id is named after a digest of its question and file, so that its name survives lines being added,
removed or moved. A task that is there again, with the same question, answer and file, is one task. The file is read
line by line and only the records are kept. Reading blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

import orjson

from store.errors import TaskFileError
from store.jsontypes import JsonValue

MAX_LINE_BYTES = 10_000_000
MAX_NAME_CHARACTERS = 200

_LOWER = ("question", "task", "query", "ques", "instruction")
_QUESTION = tuple(spelling for name in _LOWER for spelling in (name, name.capitalize()))
_ANSWER = ("answer", "Answer", "Final answer", "true_answer", "ground_truth")
_NAME = ("id", "task_id")
_FILE = ("file_name",)

_EXPECTED = 'expected JSON lines: one object per line, like {"id": "1", "question": "…", "answer": "…"}'
_UTF8_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task: `name` is unique in its file, `answer` None when the record has none, `original` the whole line."""

    name: str
    question: str
    answer: str | None
    file: Path | None
    original: dict[str, JsonValue] = field(hash=False)

    def is_same(self, other: TaskRecord) -> bool:
        """Whether another of this name is this one again, and not a changed one."""
        return (self.question, self.answer, self.file) == (other.question, other.answer, other.file)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line (numbered from 1); `skipped` tells whether the line gave no task."""

    file: Path
    line: int
    reason: str
    skipped: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class TaskFile:
    """What a task file holds, both in the order of its lines."""

    tasks: tuple[TaskRecord, ...]
    problems: tuple[Problem, ...]


def clash(name: str, first: str, second: str) -> str:
    """What is wrong with two tasks of one name that differ: where they are, and what to do."""
    return (
        f"task {name!r} is in {first} and in {second} with another question, answer or file: "
        "give one of them an id of its own"
    )


class BadTaskError(ValueError):
    """Raised when a record gives no task; its text is the reason."""


def read_tasks(
    path: Path, *, strict: bool = False, folder: Path | None = None, stream: IO[bytes] | None = None
) -> TaskFile:
    """Reads the tasks of a file; a bad line is a problem and gives no task, blank lines are nothing.

    A task without a reference answer is taken and is a problem too, since no attempt at it can be judged.

    Args:
        path: the file.
        strict: refuse the file if there is any problem.
        folder: where the files that it names lie; its own folder if left out.
        stream: read instead of the file, which then is only a name for messages.

    Raises:
        TaskFileError: the file cannot be read, is no JSON lines, or gives one id to tasks that differ; with `strict`,
            also when there is any problem.
    """
    reading = _Reading(path, folder or path.parent)
    try:
        with path.open("rb") if stream is None else contextlib.nullcontext(stream) as handle:
            for number, raw in _lines(handle, path):
                reading.take(number, raw)
    except OSError as error:
        raise TaskFileError(path, [error.strerror or str(error)]) from error
    return reading.finish(strict=strict)


class _Reading:
    """What has been read of one file so far."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._tasks: list[TaskRecord] = []
        self._problems: list[Problem] = []
        self._duplicates: list[str] = []
        self._first: dict[str, tuple[int, TaskRecord]] = {}

    def take(self, number: int, raw: bytes | None) -> None:
        """Takes one line, None for one over the limit."""
        try:
            task, is_named = _task(raw, self._folder)
        except BadTaskError as error:
            self._problems.append(Problem(self._path, number, str(error)))
            return
        first, earlier = self._first.setdefault(task.name, (number, task))
        if first == number:
            self._tasks.append(task)
            if task.answer is None:
                reason = "it has no answer, so attempts at it cannot be judged"
                self._problems.append(Problem(self._path, number, reason, skipped=False))
        elif task.is_same(earlier):
            return
        elif is_named:
            self._duplicates.append(clash(task.name, f"line {first}", f"line {number}"))
        else:
            reason = f"it asks the same question as line {first}, and neither has an id"
            self._problems.append(Problem(self._path, number, reason))

    def finish(self, *, strict: bool) -> TaskFile:
        """Everything that was read, unless it must be refused."""
        faults = self._duplicates + [f"line {problem.line}: {problem.reason}" for problem in self._problems if strict]
        if faults:
            raise TaskFileError(self._path, faults)
        return TaskFile(tuple(self._tasks), tuple(self._problems))


def _lines(handle: IO[bytes], path: Path) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, without their ends and with their numbers; None for one over the limit."""
    if path.suffix.lower() in {".csv", ".tsv", ".parquet", ".xlsx"}:
        raise TaskFileError(path, [f"it is a {path.suffix} file; {_EXPECTED}"])
    number, is_first = 0, True
    while line := handle.readline(MAX_LINE_BYTES + 2):
        number += 1
        content: bytes | None = line.strip() if number > 1 else line.removeprefix(_UTF8_BOM).strip()
        if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
            content = None
        while not line.endswith(b"\n") and (line := handle.readline(MAX_LINE_BYTES)):
            content = None
        if content == b"":
            continue
        if is_first and content is not None:
            _check_form(content, path)
        is_first = False
        yield number, content


def _check_form(first: bytes, path: Path) -> None:
    """Refuses a file whose first line shows that it is something else altogether."""
    if first.startswith(_OTHER_BOMS):
        raise TaskFileError(path, ["it is encoded as UTF-16; save it as UTF-8"])
    if first.startswith(b"["):
        raise TaskFileError(path, [f"it is a JSON array; {_EXPECTED}"])
    if first == b"{":
        raise TaskFileError(path, [f"it spreads one JSON object over several lines; {_EXPECTED}"])


def _task(raw: bytes | None, folder: Path) -> tuple[TaskRecord, bool]:
    """The task of a line, and whether the record names it."""
    if raw is None:
        raise BadTaskError(f"it has more than {MAX_LINE_BYTES} bytes")
    return _read(_record(raw), lambda name: _file(name, folder))


def read_record(record: dict[str, JsonValue]) -> TaskRecord:
    """The task of one record; its file is the relative path that the record names, not looked for on the disk.

    Raises:
        BadTaskError: it gives no task.
    """
    return _read(record, _relative)[0]


def _read(record: dict[str, JsonValue], locate: Callable[[JsonValue], Path | None]) -> tuple[TaskRecord, bool]:
    """The task of a record, with the file that is located by its name, and whether the record names the task."""
    try:
        orjson.dumps(record)  # as it will be stored
    except orjson.JSONEncodeError as error:
        raise BadTaskError("it is nested too deeply") from error
    info = record.get("info")
    places = [info, record] if isinstance(info, dict) else [record]
    question = _question(_first(places, _QUESTION))
    file_name = _first(places, _FILE)
    name = _name(_first(places, _NAME))
    task = TaskRecord(
        name=name or _digest(question, file_name),
        question=question,
        answer=_answer(_first(places, _ANSWER)),
        file=locate(file_name),
        original=record,
    )
    return task, name is not None


def _record(raw: bytes) -> dict[str, JsonValue]:
    """The JSON object on a line, with nothing in it that could not be written as JSON again."""
    if b"\0" in raw:
        raise BadTaskError("it has a NUL byte")
    try:
        record: JsonValue = _DECODER.decode(raw.decode())
        if b"\\u" in raw:  # only such an escape can be half of a pair
            json.dumps(record, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise BadTaskError(f"byte {error.start + 1} is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise BadTaskError("it has half of a surrogate pair") from error
    except json.JSONDecodeError as error:
        raise BadTaskError(f"it is not JSON: {error.msg} at character {error.colno}") from error
    except RecursionError as error:
        raise BadTaskError("it is nested too deeply") from error
    if not isinstance(record, dict):
        raise BadTaskError("it is not a JSON object")
    return record


def _unique(pairs: Sequence[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise BadTaskError(f"it has the key {twice!r} twice")
    return record


def _no_constant(name: str) -> NoReturn:
    raise BadTaskError(f"it has {name}, which is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadTaskError("it has a number that is too large; write it as text")
    return number


def _narrow(text: str) -> int:
    """An integer of 64 bits: wider ones cannot be stored."""
    if len(text) > len(str(-(2**63))) or not -(2**63) <= (number := int(text)) < 2**63:
        raise BadTaskError("it has a number that is too large; write it as text")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_narrow
)


def _first(places: Sequence[Mapping[str, JsonValue]], names: Sequence[str]) -> JsonValue:
    """The first value that is not null, the nearer place going before the earlier name."""
    for place in places:
        for name in names:
            if (value := place.get(name)) is not None:
                return value
    return None


def _question(value: JsonValue) -> str:
    if value is None:
        raise BadTaskError(f"it has no question (any of {', '.join(_LOWER)})")
    if not isinstance(value, str):
        raise BadTaskError("its question is not text")
    if not value.strip():
        raise BadTaskError("its question is empty")
    if "\0" in value:
        raise BadTaskError("its question has a NUL character")
    return value


def _name(value: JsonValue) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadTaskError("its id is neither text nor an integer")
    name = str(value).strip()
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise BadTaskError(f"its id is empty, over {MAX_NAME_CHARACTERS} characters, or not printable")
    return name


def _digest(question: str, file_name: JsonValue) -> str:
    key = json.dumps([question, file_name or None])
    return f"q-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _answer(value: JsonValue) -> str | None:
    """The answer as text, None without one (null, empty text, an empty list)."""
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, list) and any(isinstance(part, str) and not {",", ";"}.isdisjoint(part) for part in value):
        raise BadTaskError("an item of its answer has a comma or a semicolon; write the answer as text")
    texts = []
    for part in parts:
        if isinstance(part, bool):
            raise BadTaskError('its answer is a boolean; write the text that is expected, like "yes"')
        if isinstance(part, list | dict):
            raise BadTaskError("its answer is neither text nor a number nor a list of those")
        if part is not None:
            texts.append(part if isinstance(part, str) else json.dumps(part))
    answer = ", ".join(texts)
    if "\0" in answer:
        raise BadTaskError("its answer has a NUL character")
    return answer if answer.strip() else None


def _file(value: JsonValue, folder: Path) -> Path | None:
    """The file that belongs to the task, where it lies."""
    relative = _relative(value)
    if relative is None:
        return None
    file = folder / relative
    try:
        exists = file.is_file()
    except OSError as error:
        reason = f"its file {str(value)[:MAX_NAME_CHARACTERS]!r} cannot be read: {error.strerror}"
        raise BadTaskError(reason) from error
    if not exists:
        raise BadTaskError(f"its file {value!r} does not exist beside the task file")
    return file


def _relative(value: JsonValue) -> Path | None:
    """The path that a record names; a file of tasks must not reach beyond its own folder."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or "\0" in value:
        raise BadTaskError("its file_name is not a path")
    relative = os.path.normpath(value)
    if Path(relative).is_absolute() or relative.split(os.sep, 1)[0] == os.pardir:
        raise BadTaskError(f"its file {value!r} lies outside the folder of the task file")
    if relative == os.curdir:
        raise BadTaskError(f"its file {value!r} is a folder")
    return Path(relative)
