"""What makes two runs the same run: the settings that decide results, and a digest of them.

Where data lies, which server answers, how patiently and how many at once are no part of it, so that a run may
go on on another machine. Prompt files count by content, so that moving one changes nothing and editing one does.
"""

import hashlib
from collections.abc import Mapping

import orjson

from runtime.config.fields import is_identity, leaves
from runtime.config.settings import Settings
from runtime.config.values import flatten
from runtime.errors import ConfigError
from store.jsontypes import JsonValue

_PROMPTS = "agent.prompts"
_JUDGE = "models.judge."
_DIGEST_BYTES = 16


def identity(settings: Settings) -> dict[str, JsonValue]:
    """Return the settings that define a run, by dotted key; prompt files as digests of their content.

    The judge's model takes part only where it is asked. Raises ConfigError when a prompt file cannot be read.
    """
    wanted = {key for key, field in leaves(Settings) if is_identity(field)} - {_PROMPTS}
    unused = _JUDGE if settings.judge.method == "exact" else None
    values: dict[str, JsonValue] = {
        key: value
        for key, value in flatten(settings).items()
        if key in wanted and not (unused and key.startswith(unused))
    }
    for module, path in settings.agent.prompts.items():
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{_PROMPTS}.{module}: {path} cannot be read: {error.strerror}") from error
        values[f"{_PROMPTS}.{module}"] = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()
    return values


def digest(identity: Mapping[str, JsonValue]) -> str:
    """Return the BLAKE2b digest of an identity, 32 hexadecimal digits, whatever the order of its keys."""
    canonical = orjson.dumps(dict(identity), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(canonical, digest_size=_DIGEST_BYTES).hexdigest()
