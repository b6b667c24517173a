"""The documented default `config.toml`, made from the declarations in `settings` so that it cannot drift."""

import inspect
from collections.abc import Iterator

from pydantic import BaseModel

from runtime.config.fields import allowed, entries_of, section_of
from runtime.config.settings import Settings
from runtime.config.values import as_toml, flatten

_HEAD = """\
# Configuration of cso-runtime: every setting, with its default and why it exists.
# Delete what you do not change: a setting that is left out has the default shown here.
# Environment variables override this file: CSO_MODELS__POLICY__BASE_URL=http://localhost:8000/v1
# `cso config` shows what is in effect and where each value came from, `cso doctor` whether the models answer.
# LLM_URL and the other variables of the published scripts serve roles that have no base_url.
"""


def render_default_config() -> str:
    """Return the text of `config.toml`, every key with its default below one line of comment."""
    return _HEAD + "".join(f"{line}\n" for line in _section(Settings, ""))


def _section(model: type[BaseModel], name: str) -> Iterator[str]:
    defaults = flatten(model())
    if name:
        yield ""
        yield f"# {_first_line(model)}"
        yield f"[{name}]"
    subsections: list[tuple[str, type[BaseModel] | str]] = []
    for key, field in model.model_fields.items():
        section = section_of(field)
        if section is not None:
            subsections.append((key, section))
            continue
        if entries_of(field) is not None:
            subsections.append((key, field.description or ""))
            continue
        yield f"# {field.description}{_bounds(allowed(field))}"
        yield f"{key} = {as_toml(defaults[key])}"
    for key, inner in subsections:
        full = f"{name}.{key}" if name else key
        # A table of the user's own sections is a bare header: `key = {}` would keep them from being added below.
        yield from ["", f"# {inner}", f"[{full}]"] if isinstance(inner, str) else _section(inner, full)


def _first_line(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\n")[0]


def _bounds(words: str) -> str:
    """Return the range of a number, or a choice, as a remark; other rules are told where they are broken."""
    _, found, bounds = words.partition(" from ")
    if found and words.startswith(("a number", "a whole number")):
        return f" [{bounds}]"
    return f" [{words}]" if words.startswith('"') and " or " in words else ""
