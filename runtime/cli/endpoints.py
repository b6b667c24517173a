"""The part of `cso doctor` that calls the configured endpoints, each once, all at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio

from runtime.config.loading import load_settings
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from runtime.models.checkup import check_endpoint
from runtime.roles import endpoint_settings
from store.health import Finding


def endpoint_findings(file: Path | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What is found about the endpoint of each role that the configuration asks."""
    try:
        settings = load_settings(file, environ, {}).settings
        found = anyio.run(_check_all, settings, environ)
    except ConfigError as error:
        yield Finding(
            check="endpoints",
            level="warn",
            text=f"not called: {error}",
            next_step="correct config.toml (`cso init` writes one), then ask again",
        )
        return
    yield from found


async def _check_all(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    roles = endpoint_settings(settings, environ)
    found: dict[str, list[Finding]] = {}

    async def check(role: str) -> None:
        at = getattr(settings.models, role)
        found[role] = await check_endpoint(roles[role], model=at.model, send_seed=at.send_seed)

    async with anyio.create_task_group() as tasks:
        for role in roles:
            tasks.start_soon(check, role)
    return [finding for role in roles for finding in found[role]]
