"""The part of `cso doctor` that calls the configured endpoints, each replica once, all at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import anyio

from runtime.cli.options import tell_notices
from runtime.cli.output import say
from runtime.config.loading import load_settings
from runtime.config.settings import Settings
from runtime.errors import ConfigError
from runtime.models.checkup import check_endpoint
from runtime.models.settings import EndpointSettings
from runtime.roles import replica_settings
from store.health import Finding, Level


def endpoint_findings(file: Path | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What is found about the endpoint of each role that the configuration asks."""
    try:
        settings = tell_notices(load_settings(file, environ, {})).settings
    except ConfigError as error:
        yield _not_called(error, level="fail")
        return
    try:
        found = anyio.run(_check_all, settings, environ)
    except ConfigError as error:
        # Whoever has named no model yet may want only the machine checked; whoever has named one wants to work.
        yield _not_called(error, level="fail" if _names_any(settings) else "warn")
        return
    yield from found


def _not_called(error: ConfigError, *, level: Level) -> Finding:
    step = "correct the configuration, then ask again"
    return Finding(check="endpoints", level=level, text=f"not called: {error}", next_step=step)


def _names_any(settings: Settings) -> bool:
    at = settings.models
    return any(one.base_url or one.model for one in (at.policy, at.expert, at.prm, at.judge, at.vision))


async def _check_all(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    replicas = [one for each in replica_settings(settings, environ).values() for one in each]
    say(f"calling {len(replicas)} endpoints, each once")
    found: dict[int, Sequence[Finding]] = {}

    async def check(number: int, endpoint: EndpointSettings) -> None:
        at = getattr(settings.models, endpoint.name)
        found[number] = await check_endpoint(endpoint, model=at.model, send_seed=at.send_seed)

    async with anyio.create_task_group() as tasks:
        for number, endpoint in enumerate(replicas):
            tasks.start_soon(check, number, endpoint)
    return [finding for number in range(len(replicas)) for finding in found[number]]
