"""Declaring one setting: its default, why it exists, what it may be, and whether it belongs to a run's identity.

Owns the two kinds of setting. A `fixed` one decides what a run computes: two runs that differ in it are
different runs. A `free` one decides only how fast, how patiently or where, and may change while a run goes on.
"""

from collections.abc import Iterator
from typing import Literal, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

T = TypeVar("T")

_IDENTITY = "identity"
_ALLOWED = "allowed"


def fixed(default: T, why: str, *, ge: float | None = None, le: float | None = None, allowed: str = "") -> T:
    """Declare a setting that is part of a run's identity.

    `why` is its one-line description; numbers lie in [ge, le]; `allowed` says in words what text may be.
    """
    return _declare(default, why, identity=True, ge=ge, le=le, allowed=allowed)


def free(default: T, why: str, *, ge: float | None = None, le: float | None = None, allowed: str = "") -> T:
    """Declare a setting that may change while a run goes on; the arguments are those of `fixed`."""
    return _declare(default, why, identity=False, ge=ge, le=le, allowed=allowed)


def _declare(default: T, why: str, *, identity: bool, ge: float | None, le: float | None, allowed: str) -> T:
    extra: dict[str, str | bool] = {_IDENTITY: identity, _ALLOWED: allowed}
    return Field(default, description=why, ge=ge, le=le, json_schema_extra=extra)  # type: ignore[arg-type]


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting under `model` as (dotted key, field), in the order of declaration."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield prefix + name, field
        else:
            yield from leaves(section, f"{prefix}{name}.")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a field that is a section, None for a plain setting."""
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def entries_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the sections that a table of the user's own names holds, None for any other setting."""
    entry = get_args(field.annotation)[-1] if get_origin(field.annotation) is dict else None
    return entry if isinstance(entry, type) and issubclass(entry, BaseModel) else None


def is_identity(field: FieldInfo) -> bool:
    """Tell whether the setting was declared with `fixed`."""
    return bool(_extra(field)[_IDENTITY])


def allowed(field: FieldInfo) -> str:
    """Say in words what the setting may be, as in "a whole number from 1 to 8"."""
    if section_of(field) is not None:
        return "a table"
    words = str(_extra(field)[_ALLOWED])
    annotation = field.annotation
    if words:
        return words
    if get_origin(annotation) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(annotation))
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return ("a whole number" if annotation is int else "a number") + _range(field)
    return "text"


def _range(field: FieldInfo) -> str:
    low = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    return f" from {low:g} to {high:.10g}" if low is not None and high is not None else ""


def _extra(field: FieldInfo) -> dict[str, str | bool]:
    if not isinstance(field.json_schema_extra, dict):
        raise TypeError("a setting must be declared with fixed() or free()")
    return cast("dict[str, str | bool]", field.json_schema_extra)
