"""What a check of an endpoint found: for people a text that begins with the address, for programs its parts."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.models.capabilities import Capabilities
from runtime.models.settings import EndpointSettings
from store.health import Finding, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFinding(Finding):
    """What was found about an endpoint, with what programs may want to know of one that replied.

    `latency` is in seconds; `capabilities` are those that requests are fitted to.
    """

    url: str
    model: str = ""
    latency: float | None = None
    capabilities: Capabilities | None = None


def bad(settings: EndpointSettings, text: str, step: str) -> EndpointFinding:
    """What keeps an endpoint from working, and the next step."""
    return found(settings, "fail", text, step)


def warn(settings: EndpointSettings, text: str, step: str) -> EndpointFinding:
    """What an endpoint works without, and the next step."""
    return found(settings, "warn", text, step)


def found(settings: EndpointSettings, level: Level, text: str, step: str = "") -> EndpointFinding:
    """A finding about an endpoint, named after its role."""
    where = settings.base_url or f"{settings.provider} {settings.region}".strip()
    return EndpointFinding(
        check=settings.name, level=level, text=f"{where}: {text}", next_step=step, url=settings.base_url
    )
