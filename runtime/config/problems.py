"""Saying what is wrong with a layer: one sentence for each problem, naming the place and the nearest valid key.

Text values are never repeated in a message, since any of them might be a key pasted into the wrong place.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import cast

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from runtime.config.fields import allowed, entries_of, leaves, section_of
from runtime.config.layers import PREFIX, Key, Layer, walk
from runtime.config.section import CONFLICT
from runtime.config.settings import Settings

_KEYS = [key for key, _ in leaves(Settings)]


def problems_of(layer: Layer) -> list[str]:
    """Return a sentence for each unknown key and wrong value of one layer, taken by itself, in order of lines."""
    try:
        Settings.model_validate(layer.data)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if detail["type"] != CONFLICT]
        details.sort(key=lambda detail: layer.origin(_key(detail)).line or 0)
        return [_sentence(layer, detail) for detail in details]
    return []


def conflicts_in(error: ValidationError) -> Iterator[tuple[Key, Key, str]]:
    """Yield (key, other key, sentence) for each pair of merged settings that do not fit together."""
    for detail in error.errors(include_url=False):
        context = cast("dict[str, str]", detail.get("ctx", {}))
        section = tuple(str(part) for part in detail["loc"])
        key, other = (*section, context["key"]), (*section, context["other"])
        values = cast("dict[str, object]", detail["input"])
        yield key, other, f"{'.'.join(key)} {context['relation']} {'.'.join(other)}{_pair(values, context)}"


def unknown_variable(name: str) -> str:
    """Say that a `CSO_…` variable names no setting, or does not hold the JSON that its table needs."""
    dotted = name.removeprefix(PREFIX).lower().replace("__", ".")
    if dotted in _KEYS:
        return f"{name}: {dotted} must be a JSON object"
    if inside := [key for key in _KEYS if key.startswith(f"{dotted}.")]:
        return f"{name}: {dotted} must be a JSON object, or set one value as in {_variable(inside[0])}"
    return f"{name}: unknown setting{_suggest_variable(dotted)}"


def _key(detail: ErrorDetails) -> Key:
    # A problem with a dictionary's own key has the marker "[key]" behind it.
    return tuple(str(part) for part in detail["loc"] if part != "[key]")


def _sentence(layer: Layer, detail: ErrorDetails) -> str:
    key = _key(detail)
    place, dotted = layer.origin(key), ".".join(key)
    if detail["type"] == "extra_forbidden":
        if place.kind == "environment":
            full = ".".join(next((path for path, _ in walk(layer.data)), key))
            return f"{place}: unknown setting {dotted}{_suggest_variable(full)}"
        return f"{place}: unknown key {dotted}{_suggest(key)}"
    given = detail["input"]
    # Of other texts only that it is one: it may be a key in the wrong place.
    shown = f"{given!r:.60}" if dotted == "run.name" and isinstance(given, str) else _shown(given)
    message = f"{place}: {dotted} must be {allowed(_field(key))}, got {shown}"
    if detail["type"] == "value_error":
        message += f": {detail['ctx']['error']}"
    return message


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    names = {str: "text", dict: "a table", list: "a list"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), f"a {type(value).__name__}")


def _pair(values: dict[str, object], context: dict[str, str]) -> str:
    pair = [values.get(context["key"]), values.get(context["other"])]
    return f" ({pair[0]} and {pair[1]})" if None not in pair else ""


def _field(key: Key) -> FieldInfo:
    """Return the setting or section that a key lies in."""
    return _field_and_section(key)[0]


def _field_and_section(key: Key) -> tuple[FieldInfo, type[BaseModel] | None]:
    """Return the setting that a key lies in, and the section that the whole key names, if it names one."""
    model: type[BaseModel] | None = Settings
    entries: type[BaseModel] | None = None
    field = Settings.model_fields[key[0]]
    for name in key:
        if entries is not None:  # here stands a name of the user's own
            model, entries = entries, None
        elif model is not None:
            field = model.model_fields[name]
            model, entries = section_of(field), entries_of(field)
    return field, model


def _suggest(key: Key) -> str:
    name = key[-1]
    if name in ("api_key", "key", "token"):
        return "; keys are never settings: put it into the environment variable that api_key_env names"
    parent = _field_and_section(key[:-1])[1] if key[:-1] else Settings
    siblings = list(parent.model_fields) if parent else []
    near = get_close_matches(name, siblings, n=1)
    if near:
        return f"; did you mean {'.'.join((*key[:-1], near[0]))}?"
    elsewhere = [dotted for dotted in _KEYS if dotted.rpartition(".")[2] == name][:1]
    elsewhere = elsewhere or get_close_matches(".".join(key), _KEYS, n=1)
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; valid here: {', '.join(siblings)}"


def _suggest_variable(dotted: str) -> str:
    near = get_close_matches(dotted, _KEYS, n=1)
    return f"; did you mean {_variable(near[0])}?" if near else "; `cso config` lists every setting"


def _variable(dotted: str) -> str:
    return PREFIX + dotted.upper().replace(".", "__")
