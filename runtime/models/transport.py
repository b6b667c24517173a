"""What a provider's protocol looks like to an endpoint: requests go out serialised, answers and faults come back.

Retries, limits and deadlines are the endpoint's and the same for all; a transport makes one attempt and is cancelled
when the attempt's time is up. Transports are found by the name of their provider, and only the one that is used is
imported: their SDKs are optional, and some take long to load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from runtime.errors import ConfigError
from runtime.models.bodies import Answer
from runtime.models.chat import ChatRequest
from runtime.models.faults import Fault

if TYPE_CHECKING:
    from runtime.models.settings import EndpointSettings

Learn = Callable[[Mapping[str, str]], None]
"""Takes the rate-limit headers of an answer, names in lower case."""

# Where an SDK that is not part of every installation is imported, and what brings it.
_EXTRAS = {"azure": "azure", "anthropic": "anthropic", "bedrock": "aiobotocore"}


class MissingExtraError(ConfigError):
    """Raised when a provider's SDK is not installed; `command` is what installs it."""

    def __init__(self, endpoint: str, provider: str) -> None:
        self.command = f'pip install "cso-runtime[{provider}]"'
        self.need = f'provider = "{provider}" needs a package that is not installed'
        super().__init__(f"endpoint {endpoint}: {self.need}: {self.command}")


class Transport(Protocol):
    """One provider's protocol, for one endpoint. Guarantees that no fault holds a key."""

    async def open(self) -> None:
        """Make ready to send. Raises ConfigError where the provider's own configuration does not suffice."""

    def encode(self, request: ChatRequest) -> bytes:
        """Serialise a request, without what the model does not take; equal requests give equal bytes."""

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Answer | Fault:
        """Make one attempt with what `encode` gave; `headers` go along where the protocol has any."""

    async def count_tokens(self, body: bytes) -> int | None:
        """Ask the endpoint how many tokens the messages come to; None where it does not say."""

    async def close(self) -> None:
        """Close the connections."""


def make_transport(settings: EndpointSettings, learn: Learn) -> Transport:
    """The transport that an endpoint's settings ask for, not yet open.

    Raises MissingExtraError, naming the extra whose SDK is not installed.
    """
    try:
        module = import_module(f"runtime.models.providers.{settings.provider}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing != _EXTRAS.get(settings.provider):
            raise
        raise MissingExtraError(settings.name, settings.provider) from None
    transport: Transport = module.make_transport(settings, learn)
    return transport
