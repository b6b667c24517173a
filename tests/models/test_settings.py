"""Tests of endpoint settings."""

from __future__ import annotations

import pytest

from runtime.errors import ConfigError
from runtime.models.settings import EndpointSettings, normalise_base_url


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        (" http://localhost:8000/v1/ ", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions/", "http://localhost:8000/v1"),
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("https://api.example.com/openai/v1", "https://api.example.com/openai/v1"),
        ("https://[::1]:8000/v1", "https://[::1]:8000/v1"),
    ],
)
def test_a_base_or_a_full_url_name_the_same_endpoint(given: str, normal: str) -> None:
    assert normalise_base_url(given) == normal
    assert EndpointSettings(name="policy", base_url=given).base_url == normal


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://x/v1", "http:///v1", "http://u:p@x/v1", "http://x/v1?k=1", "http://x:port/v1"],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        EndpointSettings(name="policy", base_url=url)


def test_a_password_in_the_url_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        EndpointSettings(name="policy", base_url="http://user:hunter22@x/v1")
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("name", ["timeout", "deadline", "attempts", "max_in_flight", "ceiling", "tokens_per_minute"])
def test_limits_of_zero_are_refused_by_name(name: str) -> None:
    values: dict[str, object] = {name: 0}
    with pytest.raises(ConfigError, match=name):
        EndpointSettings(name="policy", base_url="http://x/v1", **values)  # type: ignore[arg-type]


def test_a_key_is_stripped_and_never_shown() -> None:
    settings = EndpointSettings(
        name="policy", base_url="http://x/v1", api_key=" sk-abcdefgh\n", headers=(("x-token", "tok-12345678"),)
    )
    assert settings.api_key == "sk-abcdefgh"
    assert "sk-abc" not in repr(settings)
    assert "tok-123" not in repr(settings)
    assert settings.secrets == ("sk-abcdefgh", "tok-12345678")


def test_a_key_that_no_header_can_carry_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        EndpointSettings(name="policy", base_url="http://x/v1", api_key="schlüssel", api_key_env="KEY")
    assert "schl" not in str(caught.value)
    assert "KEY" in str(caught.value)
