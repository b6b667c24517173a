"""Tests of Azure OpenAI beside the SDK's Azure client, with keys and with tokens from azure-identity."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncAzureOpenAI

from runtime.errors import ConfigError
from runtime.models.capabilities import capabilities_of
from runtime.models.endpoint import Endpoint
from runtime.models.errors import ContentFiltered, EndpointStopped
from runtime.models.settings import EndpointSettings
from tests.models.providers.speaking import PICTURE, REQUEST, SEEING, Asked, Provider, endpoint, reply, speaking, wire
from tests.models.server import KEY, answer, completion

DEPLOYED = "gpt-in-europe"
BEARER = "token-of-entra"
FILTER = {
    "error": {
        "message": "The response was filtered due to the prompt triggering the content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation"},
    }
}


def resource(asked: Asked) -> web.Response:
    """An Azure OpenAI resource with one deployment, and the identity endpoint of the machine beside it."""
    if asked.path == "/identity":
        if asked.headers.get("x-identity-header") != "secret-of-the-machine":
            return reply({"error": "no"}, 401)
        expires = str(int(time.time()) + 3600)
        resource = asked.query["resource"]
        return reply({"access_token": BEARER, "expires_on": expires, "resource": resource, "token_type": "Bearer"})
    if asked.headers.get("api-key") != KEY and asked.headers.get("authorization") != f"Bearer {BEARER}":
        return reply({"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}, 401)
    if asked.path == f"/openai/deployments/{DEPLOYED}/chat/completions":
        is_found = asked.query.get("api-version") == "2024-10-21"
    else:
        is_found = asked.path == "/openai/v1/chat/completions" and asked.document["model"] == DEPLOYED
    if not is_found:
        return reply({"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}, 404)
    return reply(completion())


def azure(url: str, **settings: Any) -> Endpoint:
    return endpoint(url, provider="azure", **{"deployment": DEPLOYED, **settings})


async def test_a_request_is_what_the_sdk_s_azure_client_would_send() -> None:
    version = "2024-10-21"
    async with speaking(resource) as server:
        async with azure(server.url, api_version=version) as expert:
            await expert.complete(REQUEST, headers={})
        base = f"{server.url}/openai/deployments/{DEPLOYED}"
        async with AsyncAzureOpenAI(api_key=KEY, api_version=version, base_url=base) as sdk:
            await sdk.chat.completions.create(**server.asked[0].document)
    ours, theirs = server.asked
    assert wire(ours) == wire(theirs)


@pytest.mark.parametrize("api_version", ["", "2024-10-21"])
@pytest.mark.parametrize("path", ["", "/", "/openai/v1/", f"/openai/deployments/{DEPLOYED}/chat/completions"])
async def test_a_key_reaches_the_deployment_on_either_route(api_version: str, path: str) -> None:
    async with speaking(resource) as server, azure(server.url + path, api_version=api_version) as expert:
        got = await expert.complete(REQUEST, headers={"x-cso-role": "expert"})
    assert got.content == "hi"
    headers = server.asked[0].headers
    assert (headers["api-key"], headers["x-cso-role"]) == (KEY, "expert")
    assert "authorization" not in headers


async def test_images_come_behind_the_text() -> None:
    async with speaking(resource) as server, azure(server.url) as expert:
        await expert.complete(SEEING, headers={})
    _, image = server.asked[0].document["messages"][0]["content"]
    assert image == {"type": "image_url", "image_url": {"url": PICTURE}}


async def test_a_reasoning_model_gets_no_parameter_that_it_refuses() -> None:
    capabilities = capabilities_of("o3", provider="azure")
    async with speaking(resource) as server, azure(server.url, capabilities=capabilities) as expert:
        await expert.complete(REQUEST, headers={})
    document = server.asked[0].document
    assert document.keys() == {"model", "messages", "max_completion_tokens", "seed"}
    assert document["messages"][0]["role"] == "developer"


async def test_the_content_filter_is_recognised() -> None:
    async with speaking(resource, answer(FILTER, 400)) as server, azure(server.url) as expert:
        with pytest.raises(ContentFiltered):
            await expert.complete(REQUEST, headers={})


async def test_a_refused_key_stops_the_endpoint() -> None:
    async with speaking(resource) as server, azure(server.url, api_key="wrong-key-0123456789") as expert:
        with pytest.raises(EndpointStopped, match="check the environment variable EXPERT_KEY") as caught:
            await expert.complete(REQUEST, headers={})
    assert "wrong-key" not in str(caught.value)


def machine(monkeypatch: pytest.MonkeyPatch, server: Provider, secret: str) -> None:
    """Be a machine in Azure whose identity azure-identity can use, and know no other credential."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/identity")
    monkeypatch.setenv("IDENTITY_HEADER", secret)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "key-of-the-environment")


async def test_without_a_key_tokens_come_from_entra_id_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking(resource) as server:
        machine(monkeypatch, server, "secret-of-the-machine")
        async with azure(server.url, api_key=None) as expert:
            for _ in range(3):
                assert (await expert.complete(REQUEST, headers={})).content == "hi"
    paths = [asked.path for asked in server.asked]
    assert (paths.count("/identity"), len(paths)) == (1, 4)
    assert not any("api-key" in asked.headers for asked in server.asked)
    assert "key-of-the-environment" not in str([asked.headers for asked in server.asked])


async def test_an_identity_that_is_refused_stops_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking(resource) as server:
        machine(monkeypatch, server, "wrong")
        async with azure(server.url, api_key=None) as expert:
            with pytest.raises(EndpointStopped, match="Entra ID gave no token"):
                await expert.complete(REQUEST, headers={})


def test_without_azure_identity_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "azure" or name.endswith(".entra")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "azure", None)
    with pytest.raises(ConfigError, match=r'pip install "cso-runtime\[azure\]"'):
        azure("https://x.openai.azure.com", api_key=None)


def test_an_api_version_needs_a_deployment() -> None:
    with pytest.raises(ConfigError, match="needs a deployment"):
        EndpointSettings(name="expert", provider="azure", base_url="https://x.openai.azure.com", api_version="1")
