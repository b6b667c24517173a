"""Tokens from Entra ID, through whatever credential azure-identity finds: a managed identity, `az login`, …"""

from __future__ import annotations

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.identity.aio import DefaultAzureCredential, get_bearer_token_provider

_SCOPE = "https://cognitiveservices.azure.com/.default"


class NoTokenError(Exception):
    """Raised when no token can be had; `final` if asking again would not help."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class EntraTokens:
    """Bearer tokens for Azure OpenAI, kept and renewed by azure-identity."""

    def __init__(self) -> None:
        self._credential = DefaultAzureCredential()
        self._provider = get_bearer_token_provider(self._credential, _SCOPE)

    async def token(self) -> str:
        """A token that is valid now. Raises NoTokenError."""
        try:
            return await self._provider()
        except AzureError as error:
            raise NoTokenError(error.message, final=isinstance(error, ClientAuthenticationError)) from None

    async def close(self) -> None:
        """Close the connections to Entra ID."""
        await self._credential.close()
