"""Reading one layer of the configuration: a TOML file, the environment, or the command line.

Each layer is nested data and the place it came from. pydantic-settings does the reading and decoding; what it
cannot say, namely which variable or line a value came from, is kept here by reading one source at a time.
Nothing here validates: a layer may hold unknown keys and wrong types.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError

from runtime.config.lines import KeyLines
from runtime.config.settings import Settings
from runtime.errors import ConfigError

PREFIX = "CSO_"
Key = tuple[str, ...]
# Data before validation: whatever TOML, JSON or a caller may hold.
Data = dict[str, object]


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    `kind` is default, fallback, preset, file, environment or command line; `name` is the file's path, the variable
    or the preset; `line` is the line in the file where it could be found.
    """

    kind: str
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        if self.kind == "preset":
            return f'preset "{self.name}"'
        if self.kind in ("default", "command line"):
            return self.kind
        if self.kind == "fallback":
            return f"environment {self.name}"
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Layer:
    """Data of one source; `lines` is there for files only."""

    source: Origin
    data: Data
    lines: KeyLines | None = None

    def origin(self, key: Key) -> Origin:
        """Return the origin of one key of this layer, with its line in a file."""
        return Origin(self.source.kind, self.source.name, self.lines.find(key) if self.lines else None)


class _Sources(Settings, BaseSettings):
    """Tells pydantic-settings which fields there are; never instantiated, so it reads nothing by itself."""

    model_config = SettingsConfigDict(case_sensitive=True, defer_build=True)


def read_file(path: Path) -> Layer:
    """Read a TOML file as a layer; relative prompt paths in it become relative to its folder.

    Raises ConfigError naming the file, and the line of a syntax error.
    """
    _check_readable(path)
    try:
        data: Data = TomlConfigSettingsSource(_Sources, toml_file=path)()
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_problem(path, str(error))) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, tables in tables without end
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    _anchor_prompts(data, path.parent)
    return Layer(Origin("file", str(path)), data, KeyLines(text))


def _check_readable(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name the configuration file in it")
    if not path.exists():
        raise ConfigError(f"{path}: no such configuration file; `cso init {path}` writes one")
    if not path.is_file():
        raise ConfigError(f"{path}: not a regular file")


def _syntax_problem(path: Path, message: str) -> str:
    if path.read_bytes().startswith(b"\xef\xbb\xbf"):
        return f"{path}:1: begins with a byte-order mark; save it as UTF-8 without one"
    at = re.search(r" \(at line (\d+), column (\d+)\)", message)
    if at is None:
        return f"{path}: not valid TOML: {message}"
    return f"{path}:{at[1]}: not valid TOML: {message.replace(at[0], '')}, column {at[2]}"


def _anchor_prompts(data: Data, folder: Path) -> None:
    agent = data.get("agent")
    prompts = agent.get("prompts") if isinstance(agent, dict) else None
    if isinstance(prompts, dict):
        for module, file in prompts.items():
            if isinstance(file, str) and file.strip() and not file.startswith("~"):
                prompts[module] = str(folder / file)


def read_environment(environ: Mapping[str, str]) -> tuple[list[Layer], list[str]]:
    """Read the `CSO_…` variables, one layer each, and list those that name no section or cannot be decoded.

    Sections as JSON come before single values, so that the more specific variable wins.
    """
    source = EnvSettingsSource(_Sources, case_sensitive=False, env_prefix=PREFIX, env_nested_delimiter="__")
    layers: list[Layer] = []
    unread: list[str] = []
    mine = [name for name in environ if name.startswith(PREFIX)]
    for name in sorted(mine, key=lambda name: (name.count("__"), name)):
        source.env_vars = {name.lower(): environ[name]}
        try:
            data: Data = source()
        except SettingsError:
            # Its text and cause quote the value, which may be a key: the variable's name is all we pass on.
            data = {}
        if data:
            layers.append(Layer(Origin("environment", name), data))
        else:
            unread.append(name)
    return layers, unread


def from_overrides(overrides: Mapping[str, object]) -> Layer:
    """Turn `{"run.name": "x"}` of the command line into a layer; None stands for an option not given."""
    data: Data = {}
    for dotted, value in overrides.items():
        if value is not None:
            plant(data, tuple(dotted.split(".")), value)
    return Layer(Origin("command line"), data)


def plant(data: Data, key: Key, value: object) -> None:
    """Set a nested value, making the tables on the way."""
    for name in key[:-1]:
        child = data.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{'.'.join(key)}: {name} already has a plain value")
        data = child
    data[key[-1]] = value


def walk(data: Data, prefix: Key = ()) -> Iterator[tuple[Key, object]]:
    """Yield every value that is no table, with its key."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from walk(value, (*prefix, name))
        else:
            yield (*prefix, name), value
