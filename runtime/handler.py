"""What a handler is: a stage of the method that reacts to events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, TypeAlias

from runtime.errors import ConfigError
from store.events import Event
from store.transaction import Transaction
from store.writer import Write

if TYPE_CHECKING:
    from runtime.services import Services  # the bus, which needs only what a handler is, would import every part

ENTRY_POINTS = "cso.handlers"
Result: TypeAlias = Write[None]


class Handler(Protocol):
    """A stage. It saves what it earns as it goes, and returns the write that completes its delivery.

    A delivery is handed over again after a crash or a failure, so handling must be harmless to repeat: look up what
    is there, and let the unique keys of the store refuse the rest.
    """

    name: str
    workers: int

    @property
    def consumes(self) -> tuple[type[Event], ...]:
        """The kinds of events that it takes."""
        ...

    async def handle(self, event: Event) -> Result:
        """Do the stage's work for one event.

        Returns:
            A write that is committed together with the mark that the delivery is done.

        Raises:
            InfrastructureError: the work could not be done now; it is handed over again later.
        """
        ...


def nothing_more(_transaction: Transaction) -> None:
    """The completing write of a handler that has saved everything already, or had nothing to do."""


class HandlerClass(Protocol):
    """A class of handlers, made once for a daemon with the services that it gives."""

    name: str
    consumes: tuple[type[Event], ...]

    def __call__(self, services: Services) -> Handler:
        """Make the handler."""
        ...


def subscriptions(classes: Iterable[HandlerClass]) -> dict[str, list[str]]:
    """For each kind of event the names of the handlers that it is owed to."""
    found: dict[str, list[str]] = {}
    for handler in classes:
        for kind in handler.consumes:
            found.setdefault(kind.kind, []).append(handler.name)
    return found


@cache
def handler_classes() -> Mapping[str, HandlerClass]:
    """The handlers that are installed, by name: ours and those of other packages.

    Raises:
        ConfigError: a handler cannot be imported, or two packages bring one of the same name.
    """
    found: dict[str, HandlerClass] = {}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in found:
            raise ConfigError(f"two installed packages bring a handler named {point.name!r}: remove one of them")
        try:
            found[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"the handler {point.name!r} ({point.value}) cannot be loaded: {error}") from error
    return found
