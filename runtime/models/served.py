"""What models an endpoint says that it serves."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
import orjson

from runtime.models.settings import PLACEHOLDER_KEY, EndpointSettings

_PATIENCE_S = 10.0
_MAX_BODY = 1 << 20
_SHOWN = 5


async def served_models(settings: EndpointSettings) -> list[str] | None:
    """The names that `GET /models` lists, at endpoints of OpenAI's kind; None where there is no such list."""
    if settings.provider != "openai":
        return None
    headers = {**dict(settings.headers), "Authorization": f"Bearer {settings.api_key or PLACEHOLDER_KEY}"}
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{settings.base_url}/models", headers=headers, allow_redirects=False) as response,
        ):
            body = await response.content.read(_MAX_BODY)
            return _model_names(body) if response.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


def _model_names(body: bytes) -> list[str] | None:
    try:
        listed = orjson.loads(body)["data"]
        return [str(model["id"]) for model in listed]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, the first few of many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) + more) or "no model"
