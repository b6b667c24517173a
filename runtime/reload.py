"""Reading the configuration anew while a daemon works: what may change does, and the rest is refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from runtime.config.fields import is_identity, leaves
from runtime.config.section import Section
from runtime.config.settings import Settings
from runtime.config.values import flatten
from runtime.daemon import Daemon, retries
from runtime.logs import configure_logs
from runtime.models.endpoint import ADJUSTABLE
from runtime.models.settings import EndpointSettings
from runtime.purse import caps, price_list
from runtime.roles import replica_settings
from store.jsontypes import JsonValue

_FREE = {
    "run.rollouts",
    "run.stop_grace",
    "resample.workers",
    "log.level",
    "bus.attempts",
    "bus.delay",
    "bus.max_delay",
    "bus.max_time",
}
_FREE_SECTIONS = ("budget.", "prices")
_IDENTITY = {key for key, field in leaves(Settings) if is_identity(field)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What reading the configuration anew did: keys with their old and new values, and keys with why not."""

    applied: Mapping[str, tuple[JsonValue, JsonValue]]
    refused: Mapping[str, str]


async def apply_settings(daemon: Daemon, wanted: Settings, environ: Mapping[str, str]) -> Reloaded:
    """Have a daemon work by other settings, as far as it can without being started again.

    Raises:
        ConfigError: what the daemon would work by cannot be; nothing has changed.
        StorageTroubleError: what has been bought cannot be read for now; likewise.
    """
    daemon.database.check_usable()  # or half of the settings would be in effect while writes wait
    # A table without entries is none: its entries say what changed.
    both = (daemon.settings, wanted)
    old, new = ({key: value for key, value in flatten(one).items() if value != {}} for one in both)
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    free = [key for key in changed if _may_change(key)]
    settings = _taking_over(daemon.settings, wanted, free)
    of_run, of_task = caps(settings, daemon.endpoints)
    replicas = replica_settings(settings, environ)
    has_other_caps = any(key.startswith("budget.") for key in free)
    if has_other_caps:
        await daemon.services.models.budget.adjust(daemon.database, run=of_run, task=of_task)
    daemon.settings = settings
    daemon.services = replace(daemon.services, settings=settings)
    _put_into_effect(daemon, replicas)
    if has_other_caps:
        daemon.bus.tell_of_caps_anew()
        await daemon.take_up()
    return Reloaded(
        applied={key: (old.get(key), new.get(key)) for key in free},
        refused={key: _why_not(key) for key in changed if key not in free},
    )


def _may_change(key: str) -> bool:
    section, _, name = key.rpartition(".")
    return key in _FREE or key.startswith(_FREE_SECTIONS) or (section.startswith("models.") and name in ADJUSTABLE)


def _why_not(key: str) -> str:
    if key in _IDENTITY or key.startswith("agent.prompts."):
        return "it is part of what the runs are: set it back, or stop the daemon and begin a new run"
    return "it takes effect when the daemon is started again"


def _put_into_effect(daemon: Daemon, replicas: Mapping[str, Sequence[EndpointSettings]]) -> None:
    settings = daemon.settings
    configure_logs(settings.log.level)
    daemon.bus.retries = retries(settings)
    daemon.services.models.prices = price_list(settings)
    daemon.slots.resize(settings.run.rollouts)
    for role, at in replicas.items():
        daemon.endpoints[role].adjust(at)
    daemon.bus.release_held()
    # How many workers a stage wants is its own business, so it is asked as at the start.
    for make in daemon.classes.values():
        handler = make(daemon.services)
        daemon.bus.staff(handler.name, handler.workers)


def _taking_over(settings: Settings, wanted: Settings, keys: Collection[str]) -> Settings:
    """The settings with the values that `wanted` has for some keys."""
    taken = _section_taking_over(settings, wanted, keys, "")
    assert isinstance(taken, Settings)  # a copy of what went in
    return taken


def _section_taking_over(section: Section, wanted: Section, keys: Collection[str], prefix: str) -> Section:
    changes: dict[str, object] = {}
    for name in type(section).model_fields:
        mine, theirs, key = getattr(section, name), getattr(wanted, name), f"{prefix}{name}"
        if isinstance(mine, Section):
            changes[name] = _section_taking_over(mine, theirs, keys, f"{key}.")
        elif key in keys or any(one.startswith(f"{key}.") for one in keys):  # a table has a key for each entry
            changes[name] = theirs
    return section.model_copy(update=changes)
