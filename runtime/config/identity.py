"""What makes two runs the same run: the settings and the program that decide results, and a digest of them.

Where data lies, which server answers, how patiently and how many at once are no part of it, so that a run may
go on on another machine. Prompts count by content, the user's own and those that ship with a stage, so that moving
one changes nothing and editing one does.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import orjson

from runtime.config.fields import is_identity, leaves
from runtime.config.settings import Settings
from runtime.config.values import flatten
from runtime.errors import ConfigError
from runtime.handler import handler_classes
from store.jsontypes import JsonValue

_PROMPTS = "agent.prompts"
_JUDGE = "models.judge."
_OWN_PACKAGES = ("handlers", "runtime")
_DIGEST_BYTES = 16


def identity(settings: Settings) -> dict[str, JsonValue]:
    """Return what defines a run, by dotted key: settings, the program's version, and digests of the prompts in use.

    The judge's model takes part only where it is asked. Raises ConfigError when a prompt file cannot be read.
    """
    wanted = {key for key, field in leaves(Settings) if is_identity(field)} - {_PROMPTS}
    unused = _JUDGE if settings.judge.method == "exact" else None
    values: dict[str, JsonValue] = {
        key: value
        for key, value in flatten(settings).items()
        if (key in wanted or key.rpartition(".")[0] in wanted) and not (unused and key.startswith(unused))
    }
    for module, path in settings.agent.prompts.items():
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{_PROMPTS}.{module}: {path} cannot be read: {error.strerror}") from error
        values[f"{_PROMPTS}.{module}"] = _content_digest(content)
    replaced = {"judge"} if unused else set[str]()
    replaced |= settings.agent.prompts.keys()
    values["program.version"] = _version()
    return values | {f"program.prompts.{name}": it for name, it in _shipped().items() if name not in replaced}


def digest(identity: Mapping[str, JsonValue]) -> str:
    """Return the BLAKE2b digest of an identity, 32 hexadecimal digits, whatever the order of its keys."""
    canonical = orjson.dumps(dict(identity), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(canonical, digest_size=_DIGEST_BYTES).hexdigest()


@cache
def _version() -> str:
    return version("cso-runtime")


@cache
def _shipped() -> dict[str, str]:
    """Digests of the prompts that ship with the program and with stages of other packages, by name.

    Every text file beside a stage counts: one that its author forgot to declare would change evidence unseen.
    """
    packages = {stage.__module__.partition(".")[0] for stage in handler_classes().values()} | {"runtime"}
    return {
        (path.stem if package in _OWN_PACKAGES else f"{package}.{path.stem}"): _content_digest(path.read_bytes())
        for package in packages
        for path in _texts(files(package))
    }


def _texts(folder: Traversable) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _texts(entry)
        elif entry.name.endswith(".txt"):
            yield Path(str(entry))


def _content_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()
