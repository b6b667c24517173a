"""Request bodies: JSON from anywhere, checked field by field, into what the program works with."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import orjson

from runtime.config.settings import NAME_PATTERN, NAME_RULE
from runtime.control import Parcel
from store.formats.task_files import MAX_LINE_BYTES, BadTaskError, clash, read_record
from store.jsontypes import JsonValue
from store.tasks import TaskFile

MOST_PRIORITY = 1_000_000
MOST_TASKS = 10_000
"""In a request, which is taken in one transaction."""


class BadRequestError(ValueError):
    """Raised when a body is not what the request takes; its text says what to send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksBody:
    """The body of `POST /v1/tasks`."""

    run: str | None
    priority: int
    parcels: list[Parcel]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBody:
    """The body of `POST /v1/retry`: a task of a run, all of a run, or all."""

    run: str | None
    task: str | None


def read_tasks_body(body: bytes) -> TasksBody:
    """`{"tasks": [{"record": {…}, "file": "…"}, …], "run": "…", "priority": 0}`.

    A record is what a line of a task file holds. `file` is the content of the file that the record names, in base64.

    Raises:
        BadRequestError: the body is something else; nothing of it may be taken.
    """
    fields = _fields(body, {"tasks", "run", "priority"})
    tasks = fields.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise BadRequestError('"tasks" must be a list of at least one {"record": {"question": …, "answer": …}}')
    if len(tasks) > MOST_TASKS:
        raise BadRequestError(f'"tasks" has {len(tasks)} of them: send at most {MOST_TASKS} at once')
    parcels = [_parcel(number, item) for number, item in enumerate(tasks)]
    first: dict[str, int] = {}
    for number, parcel in enumerate(parcels):
        name = parcel.record.name
        earlier = first.setdefault(name, number)
        if not parcel.is_same(parcels[earlier]):
            raise BadRequestError(clash(name, f"tasks[{earlier}]", f"tasks[{number}]"))
    return TasksBody(run=_run(fields), priority=_priority(fields.get("priority", 0)), parcels=parcels)


def read_retry_body(body: bytes) -> RetryBody:
    """`{"all": true}`, `{"run": "…"}` or `{"run": "…", "task": "…"}`.

    Raises:
        BadRequestError: the body is something else.
    """
    fields = _fields(body, {"all", "run", "task"})
    run, task = _run(fields), _text(fields, "task")
    everything = fields.get("all", False)
    if not isinstance(everything, bool):
        raise BadRequestError('"all" must be true or false')
    if everything is (run is not None or task is not None):
        raise BadRequestError('say what to try again: {"all": true}, {"run": "…"} or {"run": "…", "task": "…"}')
    if task is not None and run is None:
        raise BadRequestError('"task" needs the "run" that it belongs to')
    return RetryBody(run=run, task=task)


def write_tasks_body(parcels: Collection[Parcel], *, run: str | None, priority: int) -> bytes:
    """The body that `read_tasks_body` reads."""
    tasks: list[dict[str, object]] = []
    for parcel in parcels:
        item: dict[str, object] = {"record": parcel.record.original}
        for file in parcel.files:
            item["file"] = base64.b64encode(file.content).decode("ascii")
        tasks.append(item)
    fields = {"tasks": tasks, "priority": priority}
    return orjson.dumps(fields if run is None else {**fields, "run": run})


def _fields(body: bytes, known: Collection[str]) -> Mapping[str, JsonValue]:
    try:
        fields: JsonValue = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadRequestError("the body is not a JSON object")
    if unknown := fields.keys() - known:
        raise BadRequestError(f"unknown field {min(unknown)!r}; known are {', '.join(sorted(known))}")
    return fields


def _run(fields: Mapping[str, JsonValue]) -> str | None:
    name = _text(fields, "run")
    if name is not None and re.match(NAME_PATTERN, name) is None:
        raise BadRequestError(f'"run" must be {NAME_RULE}')
    return name


def _text(fields: Mapping[str, JsonValue], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not (isinstance(value, str) and value):
        raise BadRequestError(f'"{key}" must be text')
    return value


def _priority(value: JsonValue) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST_PRIORITY:
        raise BadRequestError(f'"priority" must be a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}')
    return value


def _parcel(number: int, item: JsonValue) -> Parcel:
    place = f"tasks[{number}]"
    if not isinstance(item, dict) or not isinstance(item.get("record"), dict) or item.keys() - {"record", "file"}:
        raise BadRequestError(f'{place} must be {{"record": {{…}}}}, with "file" if the record names one')
    try:
        record = read_record(cast("dict[str, JsonValue]", item["record"]))
    except BadTaskError as error:
        raise BadRequestError(f"{place}: {error}") from None
    if len(orjson.dumps(record.original)) > MAX_LINE_BYTES:
        raise BadRequestError(f"{place}: it has more than {MAX_LINE_BYTES} bytes")
    if record.answer is None:
        raise BadRequestError(f"{place}: it has no answer, so attempts at it cannot be judged")
    if (record.file is None) is not (item.get("file") is None):
        raise BadRequestError(f'{place}: "file" must hold the content of the file that the record names, if any')
    if record.file is None:
        return Parcel(record)
    return Parcel(record, (TaskFile(name=record.file.name, content=_content(place, item["file"])),))


def _content(place: str, value: JsonValue) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise BadRequestError(f'{place}: "file" must be text in base64')
