"""Settings as flat `section.key` values, and values as TOML text."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from runtime.config.section import Section
from store.jsontypes import JsonValue


def flatten(settings: BaseModel, prefix: str = "") -> dict[str, JsonValue]:
    """Return every value under its dotted key, in the order of declaration; paths become text.

    A filled dictionary gives one key for each entry, an empty one stays a value.
    """
    flat: dict[str, JsonValue] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Section):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping) and value:
            for key, item in value.items():
                full = f"{prefix}{name}.{key}"
                flat |= flatten(item, f"{full}.") if isinstance(item, Section) else {full: _plain(item)}
        else:
            flat[prefix + name] = _plain(value)
    return flat


def _plain(value: object) -> JsonValue:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and not value:
        return {}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    raise TypeError(f"a setting cannot be a {type(value).__name__}")


def as_toml(value: JsonValue) -> str:
    """Return one value as TOML writes it."""
    if isinstance(value, str):
        # A TOML basic string is a JSON string that must escape DEL as well.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(as_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {as_toml(item)}" for name, item in value.items()) + " }" if value else "{}"
    return repr(value)
