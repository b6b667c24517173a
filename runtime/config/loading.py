"""The effective configuration and where each of its values came from.

Layers, lowest first: defaults, file, environment, command line. Every layer is checked by itself, so that a
problem is told with its own place even where a higher layer hides it, and all problems are told at once. Where none
says where a model is served, the variables of the published scripts may (see `fallbacks`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from runtime.config.fallbacks import Fallbacks, find_fallbacks
from runtime.config.layers import Data, Key, Layer, Origin, from_overrides, plant, read_environment, read_file, walk
from runtime.config.problems import conflicts_in, problems_of, unknown_variable
from runtime.config.settings import PRESETS, Settings
from runtime.config.values import flatten
from runtime.errors import ConfigError

DEFAULT_FILE = Path("config.toml")
_PRESET: Key = ("critical", "preset")
_DEFAULT = Origin("default")
_NAMES_A_SECRET = ("api_key_env", "token_env")


@dataclass(frozen=True)
class Loaded:
    """Valid settings with the origin of each value.

    `origins` has the dotted keys of `flatten(settings)`; `file` is the file that was read, if any; `notices` are
    sentences for the user about settings that are valid but have no effect, or another one than might be thought.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    file: Path | None
    notices: Sequence[str]


def load_settings(file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Loaded:
    """Merge fallbacks, defaults, file, environment and `overrides` (dotted keys; None means not given).

    `file` None means `./config.toml` where there is one. Raises ConfigError listing every problem.
    """
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    levels, problems = _read_levels(file, environ, overrides)
    if problems:
        raise _refusal(problems)
    merged = _Merged()
    for level in levels:
        merged.add(level)
    try:
        settings = Settings.model_validate(merged.nested())
    except ValidationError as error:
        raise _refusal([f"{merged.place(key, other)}: {text}" for key, other, text in conflicts_in(error)]) from None
    fallbacks = find_fallbacks(settings.models, environ)
    if fallbacks.by_role:
        merged.fill(fallbacks)
        settings = Settings.model_validate(merged.nested())
    if missing := list(_missing_prompts(settings, merged)):
        raise _refusal(missing)
    origins = {key: merged.dotted(key) for key in flatten(settings)}
    return Loaded(settings, MappingProxyType(origins), file, (*merged.notices, *fallbacks.notices))


def _read_levels(
    file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]
) -> tuple[list[list[Layer]], list[str]]:
    """Read all layers, grouped by rank, and every problem that one of them has by itself."""
    problems: list[str] = []
    file_level: list[Layer] = []
    if file is not None:
        try:
            file_level.append(read_file(file.expanduser()))
        except ConfigError as error:
            problems.append(str(error))
    variables, unread = read_environment(environ)
    levels = [file_level, variables, [from_overrides(overrides)]]
    holders = _key_holders(levels)
    levels = [[layer for layer in level if layer.source.name not in holders] for level in levels]
    problems += [problem for level in levels for layer in level for problem in problems_of(layer)]
    problems += [unknown_variable(name) for name in unread if name not in holders]
    return levels, problems


def _key_holders(levels: Sequence[Sequence[Layer]]) -> set[str]:
    """Return the variables that hold keys; their names are the user's choice, so CSO_MY_KEY is no unknown one."""
    values = (walk(layer.data) for level in levels for layer in level)
    named = {
        value for pairs in values for key, value in pairs if key[-1] in _NAMES_A_SECRET and isinstance(value, str)
    }
    # One default names such a variable with our own prefix; an empty name is none, and that of the command line.
    return (named | {Settings().api.token_env}) - {""}


class _Merged:
    """Values of all levels so far, each with its origin."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self._values: dict[Key, tuple[object, Origin]] = {}

    def add(self, level: Sequence[Layer]) -> None:
        """Lay a level over what is there; a preset in it puts aside the thresholds of the levels below."""
        fresh = {key: (value, layer.origin(key)) for layer in level for key, value in walk(layer.data)}
        if _PRESET in fresh:
            name, origin = fresh[_PRESET]
            for threshold, value in PRESETS[str(name)].items():
                key = (_PRESET[0], threshold)
                own = fresh.get(key)
                self._values.pop(key, None)
                if own is None:
                    fresh[key] = (value, Origin("preset", str(name)))
                elif name != "default" and own[0] != value:
                    self.notices.append(
                        f"{origin}: critical.preset gives {threshold} = {value}, "
                        f"but {own[1]} sets it to {own[0]}, which wins"
                    )
        self._values |= fresh

    def fill(self, fallbacks: Fallbacks) -> None:
        """Put in what the fallbacks say, which holds nothing that is set otherwise."""
        for role, values in fallbacks.by_role.items():
            for name, (value, variable) in values.items():
                self._values["models", role, *name.split(".")] = value, Origin("fallback", variable)

    def nested(self) -> Data:
        data: Data = {}
        for key, (value, _) in self._values.items():
            plant(data, key, value)
        return data

    def origin(self, key: Key) -> Origin:
        return self._values[key][1] if key in self._values else _DEFAULT

    def dotted(self, key: str) -> Origin:
        """Return the origin of a key written with dots, which a user's own names may hold as well."""
        return next((origin for parts, (_, origin) in self._values.items() if ".".join(parts) == key), _DEFAULT)

    def place(self, key: Key, other: Key) -> Origin:
        """Return where one of two conflicting settings was set."""
        return self.origin(key) if key in self._values else self.origin(other)


def _missing_prompts(settings: Settings, merged: _Merged) -> Iterator[str]:
    for module, path in settings.agent.prompts.items():
        if not path.is_file():
            yield f"{merged.origin(('agent', 'prompts', module))}: agent.prompts.{module}: no such file: {path}"


def _refusal(problems: Sequence[str]) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(problems[0])
    return ConfigError("\n  ".join([f"{len(problems)} problems in the configuration:", *problems]))
