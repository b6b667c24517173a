"""Keeping keys out of what is stored: values of the configured variables are replaced before a text is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from runtime.config.endpoints import PROVIDERS_SECRETS
from runtime.config.settings import Settings
from runtime.config.values import flatten

REDACTED = "[redacted]"
_VARIABLE = "_env"
# Shorter values are placeholders such as "x" for servers without keys; replacing them would garble every message.
_LEAST_CHARACTERS = 4


def configured_secrets(settings: Settings, environ: Mapping[str, str]) -> set[str]:
    """The values of all variables that hold a key or token: those that settings name, and those that SDKs read."""
    names = {str(value) for key, value in flatten(settings).items() if key.endswith(_VARIABLE)}
    names |= PROVIDERS_SECRETS
    return {environ[name] for name in names if name and name in environ}


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that replaces each of some secrets wherever it stands in a text."""
    found = {text for secret in secrets for text in (secret, secret.strip()) if len(text) >= _LEAST_CHARACTERS}
    if not found:
        return str
    # The longest first: a secret may begin with another one.
    pattern = re.compile("|".join(re.escape(text) for text in sorted(found, key=len, reverse=True)))
    return lambda text: pattern.sub(REDACTED, text)
