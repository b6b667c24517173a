"""Base URLs are brought into one form, and nothing that could be a key gets into a setting."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from runtime.config.endpoints import Endpoint, Models, normalise_base_url


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("  ", ""),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("https://api.example.com/v1/chat/completions/", "https://api.example.com/v1"),
        ("HTTPS://API.Example.com/V1", "https://api.example.com/V1"),
        ("https://example.com/serving-endpoints", "https://example.com/serving-endpoints"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://example.com", "https://example.com"),
    ],
)
def test_a_base_url_is_brought_into_one_form(given: str, kept: str) -> None:
    assert normalise_base_url(given) == kept
    assert normalise_base_url(kept) == kept


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("localhost:8000/v1", "does not start with http"),
        ("ftp://example.com/v1", "does not start with http"),
        ("http:///v1", "names no host"),
        ("http://host:0/v1", "port 0"),
        ("http://host/v1 x", "white space"),
        ("http://host/\nv1", "white space"),
        ("http://sk-secret@host/v1", "user or password"),
        ("http://me:sk-secret@host/v1", "user or password"),
        ("http://host/v1?key=sk-secret", "query"),
        ("http://host/v1#sk-secret", "query or fragment"),
        ("http://host:sk-secret/v1", "malformed"),
        ("http://[sk-secret/v1", "malformed"),
    ],
)
def test_a_bad_base_url_is_refused_without_repeating_it(given: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        normalise_base_url(given)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "OPENAI_API_KEY", "_KEY2"])
def test_the_name_of_a_key_variable_is_kept(name: str) -> None:
    assert Endpoint(api_key_env=name).api_key_env == name


@pytest.mark.parametrize("name", ["sk-abc123", "abcdef0123456789", "MY KEY", "2KEY"])
def test_a_key_in_place_of_its_variables_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="put the key into an environment variable"):
        Endpoint(api_key_env=name)


def test_each_role_has_its_own_default_temperature_also_when_another_setting_is_given() -> None:
    models = Models.model_validate({role: {"model": "m"} for role in ("policy", "expert", "prm", "judge")})
    temperatures = (models.policy, models.expert, models.prm, models.judge)
    assert [endpoint.temperature for endpoint in temperatures] == [0.2, 0.8, 0.0, 0.0]


def test_one_attempt_may_not_outlast_the_whole_call() -> None:
    with pytest.raises(ValidationError, match="timeout must not be longer than deadline"):
        Endpoint(timeout=20.0, deadline=10.0)
