"""Azure OpenAI: OpenAI's protocol at a deployment's address, with a key or with tokens from Entra ID.

With `api_version` set requests go to `/openai/deployments/…?api-version=…`, else to `/openai/v1`, which takes the
deployment as the model. Without a key, tokens come from the credentials that azure-identity finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from runtime.models.bodies import Answer
from runtime.models.chat import ChatRequest
from runtime.models.errors import EndpointStopped, EndpointUnavailable
from runtime.models.faults import Fault, Reaction, excerpt
from runtime.models.providers.openai import OpenAITransport
from runtime.models.settings import COMPLETIONS_PATH, EndpointSettings
from runtime.models.transport import Learn, MissingExtraError

if TYPE_CHECKING:
    from runtime.models.providers.entra import EntraTokens


class AzureTransport(OpenAITransport):
    """Chat completions of one deployment; `tokens` take the place of a key."""

    def __init__(
        self,
        settings: EndpointSettings,
        learn: Learn,
        url: str,
        headers: Mapping[str, str],
        tokens: EntraTokens | None,
    ) -> None:
        super().__init__(settings, learn, url, headers)
        self._deployment = settings.deployment
        self._tokens = tokens

    def encode(self, request: ChatRequest) -> bytes:
        """The JSON of `POST /chat/completions`; its model is the deployment."""
        return super().encode(replace(request, model=self._deployment or request.model))

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Answer | Fault:
        """Post a body; that no token can be had is a fault, too."""
        if self._tokens is None:
            return await super().send(body, headers)
        from runtime.models.providers.entra import NoTokenError

        try:
            token = await self._tokens.token()
        except NoTokenError as error:
            return Fault(
                reaction=Reaction.NEVER if error.final else Reaction.LATER,
                error=EndpointStopped if error.final else EndpointUnavailable,
                reason="Entra ID gave no token",
                body=excerpt(str(error)),
            )
        return await super().send(body, {**headers, "Authorization": f"Bearer {token}"})

    async def count_tokens(self, body: bytes) -> int | None:  # noqa: ARG002 - Azure has no tokenizer to ask
        """None: Azure does not count."""
        return None

    async def close(self) -> None:
        """Close the connections, those to Entra ID as well."""
        await super().close()
        if self._tokens is not None:
            await self._tokens.close()


def make_transport(settings: EndpointSettings, learn: Learn) -> AzureTransport:
    """A transport for one deployment, with the key if there is one and else with tokens.

    Raises MissingExtraError where there is no key and azure-identity is not installed.
    """
    path = f"/openai/deployments/{quote(settings.deployment, safe='')}" if settings.api_version else "/openai/v1"
    version = quote(settings.api_version or "v1", safe="")
    url = f"{settings.base_url}{path}{COMPLETIONS_PATH}?api-version={version}"
    headers = dict(settings.headers)
    if settings.api_key:
        headers["api-key"] = settings.api_key
    return AzureTransport(settings, learn, url, headers, None if settings.api_key else _entra_tokens(settings))


def _entra_tokens(settings: EndpointSettings) -> EntraTokens:
    try:
        from runtime.models.providers.entra import EntraTokens
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "azure":
            raise
        raise MissingExtraError(settings.name, settings.provider) from None
    return EntraTokens()
