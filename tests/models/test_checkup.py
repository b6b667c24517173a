"""What `cso doctor` says of an endpoint, and which next step it names, for each way in which one can be wrong."""

from __future__ import annotations

import base64
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from runtime.models.capabilities import Capabilities, Provider
from runtime.models.checkup import check_endpoint
from runtime.models.findings import EndpointFinding
from runtime.models.settings import EndpointSettings
from runtime.simulation.server import SimulationServer
from runtime.simulation.world import World
from store.health import Finding
from tests.models.server import GOOD, HTML, KEY, answer, completion, failure, reset_before, serve, stall

WORLD = World.generate(1, 1)


def at(url: str, *, api_key: str | None = KEY) -> EndpointSettings:
    return EndpointSettings(
        name="policy", base_url=url, api_key=api_key, api_key_env="POLICY_KEY", timeout=5.0, deadline=5.0
    )


async def check(settings: EndpointSettings, *, model: str = "sim-policy", send_seed: bool = True) -> list[Finding]:
    found = await check_endpoint(settings, model=model, send_seed=send_seed)
    assert not any(KEY in f"{one.text} {one.next_step}" for one in found)
    assert {one.check for one in found} == {"policy"}
    assert all(one.text.startswith(f"{settings.base_url}: ") for one in found)
    return [replace(one, text=one.text.removeprefix(f"{settings.base_url}: ")) for one in found]


async def only(settings: EndpointSettings, *, model: str = "sim-policy") -> tuple[str, str]:
    """The text and the next step of the one failure that is found."""
    (found,) = await check(settings, model=model)
    assert found.level == "fail"
    return found.text, found.next_step


def a_free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_a_sound_endpoint_is_told_with_latency_usage_seed_and_what_it_serves() -> None:
    async with SimulationServer(WORLD, api_key=KEY) as server:
        (found,) = await check(at(server.base_url))
    assert found.level == "ok"
    for words in ("sim-policy replied in 0.", "reports tokens (", "accepts a seed", "serves sim-policy, sim-expert"):
        assert words in found.text
    (entry,) = server.record.entries
    assert entry.headers == {"role": "policy", "module": "doctor"}


async def test_a_wrong_key_and_no_key_name_the_variable() -> None:
    async with SimulationServer(WORLD, api_key="another-key") as server:
        text, step = await only(at(server.base_url))
        assert "the key was refused; it said: Incorrect API key provided." in text
        assert step == "check the environment variable POLICY_KEY"
        _, step = await only(at(server.base_url, api_key=None))
        assert step == "no key is set: set the environment variable POLICY_KEY"


async def test_where_no_key_is_to_be_sent_the_next_step_is_to_name_one() -> None:
    async with SimulationServer(WORLD, api_key="their-key") as server:
        _, step = await only(replace(at(server.base_url, api_key=None), api_key_env=None))
    assert step == "no key is sent: put it into a variable and name that in models.policy.api_key_env"


async def test_a_wrong_model_is_told_with_those_that_are_served() -> None:
    async with SimulationServer(WORLD) as server:
        text, step = await only(at(server.base_url), model="sim-polcy")
    assert text == "it has no model 'sim-polcy'; it serves sim-policy, sim-expert, sim-prm, sim-judge"
    assert step == "correct the model of policy"


@pytest.mark.parametrize("path", ["/api", "/v2", "/v1/chat"])
async def test_a_wrong_path_is_told_with_the_right_one(path: str) -> None:
    async with SimulationServer(WORLD) as server:
        text, step = await only(at(server.root_url + path))
        assert text == "base_url has the wrong path"
        assert step == f'base_url = "{server.base_url}"'


async def test_a_wrong_port_and_a_wrong_host_are_told_apart() -> None:
    port = a_free_port()
    text, step = await only(at(f"http://127.0.0.1:{port}/v1"))
    assert text == f"nothing listens on 127.0.0.1:{port}"
    assert "correct the port" in step
    text, _ = await only(at("http://no-such-host.invalid/v1"))
    assert text == "the host no-such-host.invalid cannot be found"


@pytest.mark.parametrize(("status", "words"), [(200, "leads to a web page"), (502, "the model server behind it")])
async def test_html_is_told_for_what_it_is(status: int, words: str) -> None:
    page = answer(b"<html><body>Sign in</body></html>", status=status, content_type="text/html")
    async with serve(page) as server:
        text, step = await only(at(server.url))
    assert text == f"it answers with HTML, status {status}"
    assert words in step


async def test_a_refused_seed_is_found_by_asking_without_one() -> None:
    async def no_seeds(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await (failure(400, "Unrecognized argument: seed") if "seed" in body else GOOD)(request)

    async with serve(no_seeds) as server:
        first, second = await check(at(server.url))
        assert len(server.requests) == 2
    assert first.level == "ok"
    assert "seed" not in first.text
    assert (second.level, second.text) == ("warn", "it refuses a seed")
    assert "send_seed = false" in second.next_step


async def test_another_refusal_is_told_as_it_came_whether_or_not_a_seed_was_sent() -> None:
    async with serve(failure(400, "temperature must be 1")) as server:
        text, _ = await only(at(server.url))
    assert text == "the request was refused, status 400; it said: temperature must be 1"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"detail": "no such thing"}, "no such thing"),
        ({"error": "no such thing"}, "no such thing"),
        ({"object": "error", "message": "no such thing"}, "no such thing"),
        ({"errors": [1]}, '{"errors":[1]}'),
        (b"no such thing", "no such thing"),
    ],
)
async def test_what_a_server_says_is_told_whatever_form_it_has(said: object, told: str) -> None:
    async with serve(answer(said, 400)) as server:
        text, _ = await only(at(server.url))
    assert text == f"the request was refused, status 400; it said: {told}"


async def test_missing_token_counts_are_a_warning_since_costs_cannot_be_known() -> None:
    async with serve(answer({**completion(), "usage": None})) as server:
        first, second = await check(at(server.url))
    assert "reports tokens" not in first.text
    assert (second.level, second.text) == ("warn", "it does not say how many tokens a call took")


async def test_a_server_that_never_answers_is_told_within_the_time_of_one_attempt() -> None:
    async with serve(stall) as server:
        text, step = await only(replace(at(server.url), timeout=0.3))
    assert "no complete reply within 0.3 s" in text
    assert "loaded" in step


async def test_a_server_that_drops_the_connection_is_told_so() -> None:
    async with serve(reset_before) as server:
        text, _ = await only(at(server.url))
    assert text.startswith("it takes the connection and ends it")


async def test_a_page_under_status_200_and_a_busy_server_have_different_next_steps() -> None:
    async with serve(HTML) as page, serve(failure(429, "slow down")) as busy:
        _, step = await only(at(page.url))
        assert "base_url leads to a web page" in step
        text, step = await only(at(busy.url))
        assert "rate limited, status 429; it said: slow down" in text
        assert "wait" in step


async def test_a_server_that_wants_to_be_left_alone_for_hours_is_told_with_the_time() -> None:
    async with serve(failure(429, "Daily quota reached.", headers={"Retry-After": "7200"})) as server:
        text, step = await only(at(server.url))
    assert re.fullmatch(r"it wants to be left alone until [\d: -]+: rate limited \(Daily quota reached\)", text)
    assert step == "wait until then, or have its quota raised"


async def test_what_a_model_takes_is_part_of_the_finding() -> None:
    able = Capabilities(limit_name="max_completion_tokens", sampling="none", seed=False)
    async with serve(GOOD) as server:
        (found,) = await check(replace(at(server.url), capabilities=able))
    assert (
        "is sent the key in POLICY_KEY, max_completion_tokens, no sampling parameters, system role, no seed"
        in found.text
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody trusts, with its key in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, signed, both = folder / "key.pem", folder / "signed.pem", folder / "both.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", *words, "-keyout", str(key), "-out", str(signed)], check=True, capture_output=True)
    both.write_text(key.read_text() + signed.read_text())
    return both


@asynccontextmanager
async def tls_server(certificate: Path) -> AsyncIterator[int]:
    """A server that speaks TLS; its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    runner = web.AppRunner(web.Application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_a_certificate_that_is_not_trusted_is_told_so(certificate: Path) -> None:
    async with tls_server(certificate) as port:
        text, step = await only(at(f"https://127.0.0.1:{port}/v1"))
    assert text.startswith("its certificate is not trusted: self")
    assert "SSL_CERT_FILE" in step


async def test_http_where_tls_is_spoken_and_the_reverse_name_the_right_scheme(certificate: Path) -> None:
    async with tls_server(certificate) as port:
        text, step = await only(at(f"http://127.0.0.1:{port}/v1"))
        assert (text, step) == (f"127.0.0.1:{port} speaks TLS, not plain HTTP", "begin base_url with https://")
    async with SimulationServer(WORLD) as server:
        text, step = await only(at(server.base_url.replace("http://", "https://")))
        assert "does not speak TLS" in text
        assert "http://" in step


async def test_a_provider_without_its_package_has_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    monkeypatch.delitem(sys.modules, "runtime.models.providers.anthropic", raising=False)
    settings = EndpointSettings(name="policy", provider="anthropic", base_url="")
    text, step = await only(settings)
    assert text == 'provider = "anthropic" needs a package that is not installed'
    assert step == 'pip install "cso-runtime[anthropic]"'


async def test_the_vision_model_is_shown_an_image() -> None:
    async with serve(GOOD) as server:
        (found,) = await check_endpoint(replace(at(server.url), name="vision"), model="m", send_seed=True)
        asked = orjson.loads(server.requests[0])["messages"][0]["content"]
    assert "takes an image" in found.text
    content = base64.b64decode(asked[1]["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert content.startswith(b"\x89PNG")
    assert content.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize(
    ("provider", "words"),
    [("azure", "a deployment 'mine'"), ("anthropic", "no path, and that the account may use a model 'sim-policy'")],
)
async def test_an_unknown_model_has_the_next_step_of_its_provider(provider: Provider, words: str) -> None:
    async with serve(GOOD) as server:
        settings = replace(at(server.url.removesuffix("/v1")), provider=provider, deployment="mine")
        text, step = await only(settings)
    assert text.startswith("it has no such model or path, status 404")
    assert words in step


def test_without_a_key_azure_s_next_step_is_to_sign_in() -> None:
    settings = EndpointSettings(name="policy", provider="azure", base_url="https://r.example", api_key_env="KEY")
    assert settings.key_advice == "sign in to Entra ID, or set the environment variable KEY"


async def test_programs_get_latency_model_and_capabilities_of_an_endpoint_that_replied() -> None:
    async with SimulationServer(WORLD) as server:
        (found,) = await check_endpoint(at(server.base_url), model="sim-policy", send_seed=True)
        assert isinstance(found, EndpointFinding)
        assert (found.url, found.model, found.capabilities) == (server.base_url, "sim-policy", Capabilities())
        assert found.latency is not None
