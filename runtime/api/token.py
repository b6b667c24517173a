"""The token of the API: asked of whoever talks to a daemon, and shown by its clients."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.config.settings import Api


def api_token(settings: Api, environ: Mapping[str, str]) -> str | None:
    """The token that requests must carry, if any is set."""
    return environ.get(settings.token_env, "").strip() or None if settings.token_env else None
