"""The variables of the published scripts say where models are served, where nothing else does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.config.endpoints import Endpoint
from runtime.config.fallbacks import TARGETS
from runtime.config.loading import Loaded, load_settings
from runtime.config.rendering import render_default_config
from runtime.config.settings import Settings
from runtime.config.values import flatten
from runtime.errors import ConfigError
from runtime.roles import replica_settings

LLM = "http://gpu:8081/v1/chat/completions"
AZURE = {"AZURE_OPENAI_API_KEY": "azure-key", "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com/"}
KEYS = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "DATABRICKS_TOKEN", "ANTHROPIC_API_KEY")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def policy(environ: Mapping[str, str]) -> Endpoint:
    return load_settings(None, environ, {}).settings.models.policy


def changed(loaded: Loaded, role: str = "policy") -> dict[str, str]:
    """The settings of one role that are not their default, as text, each with its origin."""
    section = f"models.{role}."
    return {
        key.removeprefix(section): f"{value} from {loaded.origins[key]}"
        for key, value in flatten(loaded.settings).items()
        if key.startswith(section) and loaded.origins[key].kind != "default"
    }


def test_each_target_serves_its_role_and_the_policy_s_serves_the_expert_too() -> None:
    environ = {name: f"http://{name.lower().replace('_', '-')}:1/v1/chat/completions" for name in TARGETS.values()}
    models = load_settings(None, environ, {}).settings.models
    hosts = {role: getattr(models, role).base_url for role in TARGETS}
    assert hosts == {
        "policy": "http://llm-url:1/v1",
        "expert": "http://llm-url:1/v1",
        "prm": "http://rpm-model-url:1/v1",
        "judge": "http://evaluator-llm:1/v1",
        "vision": "http://vlm-url:1/v1",
    }


def test_an_address_is_asked_as_the_published_scripts_ask_it_and_every_value_has_its_origin() -> None:
    assert changed(load_settings(None, {"LLM_URL": LLM}, {})) == {
        "base_url": "http://gpu:8081/v1 from environment LLM_URL",
        "model": "ck from environment LLM_URL",
        "api_key_env": " from environment LLM_URL",
        "capabilities.thinking": "False from environment LLM_URL",
    }


@pytest.mark.parametrize("role", TARGETS)
def test_no_key_goes_to_the_address_of_a_target(role: str) -> None:
    environ = {**dict.fromkeys(TARGETS.values(), LLM), **dict.fromkeys(KEYS, "sk-secret")}
    loaded = load_settings(None, environ, {"judge.method": "model"})
    assert replica_settings(loaded.settings, environ)[role][0].api_key is None


def test_openai_s_key_goes_to_openai_itself_and_to_its_own_endpoint() -> None:
    key = {"OPENAI_API_KEY": "sk-secret"}
    for environ, url in (
        ({"LLM_URL": "https://api.openai.com/v1/chat/completions"}, "https://api.openai.com/v1"),
        ({"LLM_URL": "gpt:gpt-4o"}, "https://api.openai.com/v1"),
        ({"LLM_URL": "gpt:gpt-4o", "OPENAI_ENDPOINT": "https://gate.example/v1"}, "https://gate.example/v1"),
        ({"LLM_URL": "gpt:m", "OPENAI_ENDPOINT": "https://r.example.com"}, "https://r.example.com/openai/v1"),
        ({"LLM_URL": "gpt:m", "OPENAI_ENDPOINT": "https://api.openai.com/"}, "https://api.openai.com/v1"),
    ):
        at = policy(environ | key)
        assert (at.base_url, at.key_variable) == (url, "OPENAI_API_KEY")


def test_gpt_is_azure_where_azure_s_key_is_set() -> None:
    environ = {**AZURE, "LLM_URL": "gpt:gpt-4o", "AZURE_OPENAI_API_VERSION": "2025-01-01-preview"}
    assert changed(load_settings(None, environ | {"OPENAI_API_KEY": "k"}, {})) == {
        "provider": "azure from environment AZURE_OPENAI_ENDPOINT",
        "base_url": "https://r.openai.azure.com from environment AZURE_OPENAI_ENDPOINT",
        "model": "gpt-4o from environment LLM_URL",
        "api_version": "2025-01-01-preview from environment AZURE_OPENAI_API_VERSION",
    }
    assert policy(environ).key_variable == "AZURE_OPENAI_API_KEY"
    assert policy({**environ, "LLM_URL": "gpt:databricks-x"}).provider == "openai"


def test_azure_without_a_key_is_meant_where_only_its_address_is_set() -> None:
    environ = {"LLM_URL": "gpt:gpt-4o", "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"}
    assert policy(environ).provider == "azure"
    assert policy({**environ, "OPENAI_API_KEY": "k"}).provider == "openai"


def test_azure_s_one_deployment_serves_one_model_only() -> None:
    environ = {**AZURE, "LLM_URL": "gpt:gpt-4o", "AZURE_OPENAI_DEPLOYMENT": "mine"}
    loaded = load_settings(None, environ, {})
    assert (loaded.settings.models.policy.deployment, loaded.settings.models.expert.deployment) == ("mine", "mine")
    loaded = load_settings(None, {**environ, "RPM_MODEL_URL": "gpt:gpt-4.1"}, {})
    assert (loaded.settings.models.policy.deployment, loaded.settings.models.prm.deployment) == ("", "")
    assert any(notice.startswith("AZURE_OPENAI_DEPLOYMENT is left alone") for notice in loaded.notices)


def test_claude_is_bedrock_with_the_model_and_region_of_the_published_scripts() -> None:
    at = policy({"LLM_URL": "claude:claude-3.7"})
    assert (at.provider, at.model) == ("bedrock", "us.anthropic.claude-3-7-sonnet-20250219-v1:0")
    assert at.region == "us-west-2"
    at = policy({"LLM_URL": "claude:claude-3.7", "AWS_MODEL_ID": "eu.x", "AWS_REGION_NAME": "eu-central-1"})
    assert (at.model, at.region) == ("eu.x", "eu-central-1")
    assert policy({"LLM_URL": "claude:x", "AWS_REGION": "eu-west-1"}).region == ""


def test_claude_is_anthropic_where_only_its_key_is_set() -> None:
    key = {"ANTHROPIC_API_KEY": "sk-ant"}
    at = policy({"LLM_URL": "claude:claude-sonnet-4-5", **key})
    assert (at.provider, at.model, at.key_variable) == ("anthropic", "claude-sonnet-4-5", "ANTHROPIC_API_KEY")
    assert policy({"LLM_URL": "claude:x", "AWS_ACCESS_KEY_ID": "a", **key}).provider == "bedrock"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABRICKS_BASE_URL", "https://adb-1.azuredatabricks.net/serving-endpoints"),
        ("DATABRICKS_HOST", "https://adb-1.azuredatabricks.net/"),
        ("DATABRICKS_HOST", "adb-1.azuredatabricks.net"),
    ],
)
def test_azure_claude_is_databricks_with_its_own_key(name: str, value: str) -> None:
    at = policy({"LLM_URL": "azure_claude:databricks-claude-3-7-sonnet", "OPENAI_API_KEY": "k", name: value})
    assert at.base_url == "https://adb-1.azuredatabricks.net/serving-endpoints"
    assert (at.model, at.key_variable, at.send_seed) == (
        "databricks-claude-3-7-sonnet",
        "DATABRICKS_TOKEN",
        False,
    )


def test_what_is_configured_wins_wherever_it_is_configured() -> None:
    Path("config.toml").write_text("[models.policy]\nbase_url = 'http://mine:1/v1'\nmodel = 'm'\n")
    environ = {
        "LLM_URL": "gpt:gpt-4o",
        "RPM_MODEL_URL": LLM,
        "CSO_MODELS__PRM__BASE_URL": "http://prm:1/v1",
        **AZURE,
    }
    models = load_settings(None, environ, {}).settings.models
    assert (models.policy.base_url, models.policy.provider) == ("http://mine:1/v1", "openai")
    assert (models.prm.base_url, models.prm.model) == ("http://prm:1/v1", "")


def test_an_expert_beside_a_configured_policy_is_not_served_by_the_policy_s_target() -> None:
    Path("config.toml").write_text("[models.policy]\nbase_url = 'http://mine:1/v1'\nmodel = 'm'\n")
    assert load_settings(None, {"LLM_URL": LLM}, {}).settings.models.expert.base_url == ""


def test_a_file_that_only_repeats_the_defaults_says_nothing_of_where_models_are() -> None:
    Path("config.toml").write_text(render_default_config())
    at = policy({"LLM_URL": "claude:x", "AWS_MODEL_ID": "m"})
    assert (at.provider, at.model) == ("bedrock", "m")


def test_an_address_takes_the_model_that_is_named_and_other_targets_do_not() -> None:
    named = {"CSO_MODELS__POLICY__MODEL": "qwen"}
    at = policy({"LLM_URL": LLM, **named})
    assert (at.base_url, at.model, at.api_key_env) == ("http://gpu:8081/v1", "qwen", "")
    at = policy({"LLM_URL": "claude:x", **named})
    assert (at.base_url, at.model, at.provider) == ("", "qwen", "openai")


def test_a_key_that_is_named_for_a_role_goes_along() -> None:
    at = policy({"LLM_URL": LLM, "CSO_MODELS__POLICY__API_KEY_ENV": "MY_GATEWAY_KEY"})
    assert (at.base_url, at.key_variable) == ("http://gpu:8081/v1", "MY_GATEWAY_KEY")


def test_a_provider_or_a_model_without_an_address_takes_that_of_its_own_variable() -> None:
    at = policy({"CSO_MODELS__POLICY__PROVIDER": "azure", "CSO_MODELS__POLICY__MODEL": "m", **AZURE})
    assert at.base_url == "https://r.openai.azure.com"
    at = policy({"CSO_MODELS__POLICY__MODEL": "gpt-4o", "OPENAI_ENDPOINT": "https://gate.example/v1"})
    assert at.base_url == "https://gate.example/v1"
    assert policy({"CSO_MODELS__POLICY__MODEL": "gpt-4o", "OPENAI_API_KEY": "k"}).base_url == ""


@pytest.mark.parametrize(
    ("environ", "notice"),
    [
        ({"LLM_URL": "manual"}, 'LLM_URL: "manual" is no model'),
        ({"LLM_URL": "fake"}, 'LLM_URL: "fake" is no model'),
        ({"LLM_URL": "gpt-4o"}, "LLM_URL: it is none of http…, gpt:MODEL"),
        ({"LLM_URL": "gpt: "}, "LLM_URL: it names no model after gpt:"),
        ({"LLM_URL": "http://user:hunter22@gpu/v1"}, "LLM_URL: as an address it cannot be used: it contains a user"),
        ({"LLM_URL": "gpt:m", "AZURE_OPENAI_API_KEY": "k"}, "AZURE_OPENAI_ENDPOINT is not set"),
        ({"LLM_URL": "gpt:m", "OPENAI_ENDPOINT": "gate/v1"}, "OPENAI_ENDPOINT: as an address it cannot be used"),
        ({"LLM_URL": "azure_claude:m"}, "neither DATABRICKS_BASE_URL nor DATABRICKS_HOST is set"),
    ],
)
def test_a_variable_that_says_nothing_usable_is_no_error_until_a_model_is_missing(
    environ: dict[str, str], notice: str
) -> None:
    loaded = load_settings(None, environ, {})
    assert loaded.settings == Settings()
    (told,) = loaded.notices
    assert notice in told
    assert "hunter22" not in told
    with pytest.raises(ConfigError, match=r"not set: models\.policy\.base_url") as caught:
        replica_settings(loaded.settings, environ)
    assert notice in str(caught.value)


def test_that_the_policy_is_its_own_expert_is_pointed_out() -> None:
    assert load_settings(None, {"LLM_URL": LLM}, {}).notices == (
        "LLM_URL serves the expert as well; a model stronger than the policy finds more",
    )
    environ = {"LLM_URL": LLM, "CSO_MODELS__EXPERT__MODEL": "bigger"}
    assert load_settings(None, environ, {}).notices == ()


def test_the_documentation_names_every_variable_that_is_read() -> None:
    sources = Path(__file__).parents[2] / "runtime" / "config"
    text = "".join((sources / name).read_text() for name in ("fallbacks.py", "targets.py"))
    read = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', text)) - {"AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION"}
    documented = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert [name for name in sorted(read) if f"`{name}`" not in documented] == []
