"""Tests of what models are known to take, and of requests and replies that are fitted to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.models.capabilities import (
    SAMPLING_VERSION,
    Capabilities,
    Provider,
    Thoughts,
    capabilities_of,
    cut_at_stop,
    fit,
    part_thoughts,
)
from runtime.models.chat import ChatRequest
from store.messages import Message

REQUEST = ChatRequest(
    model="m",
    messages=(Message("system", "s"), Message("user", "u")),
    temperature=0.2,
    top_p=0.9,
    seed=1,
    stop=("x",),
)


@pytest.mark.parametrize(
    "model", ["o1", "o3-mini", "o4-mini-2025-04-16", "openai/o3", "gpt-5", "gpt-5.1-mini", "gpt-6"]
)
def test_reasoning_models_take_no_sampling_and_another_limit(model: str) -> None:
    found = capabilities_of(model)
    assert (found.limit_name, found.sampling) == ("max_completion_tokens", "none")


@pytest.mark.parametrize(
    "model", ["ck", "gpt-4o", "gpt-4.1-mini", "Qwen3-32B", "llama-o3000", "foo1", "mistral-large"]
)
def test_other_models_take_what_the_protocol_has(model: str) -> None:
    found = capabilities_of(model)
    assert (found.limit_name, found.sampling, found.system) == ("max_tokens", "both", "system")


@pytest.mark.parametrize(
    ("model", "provider", "api_version", "sampling"),
    [
        ("claude-3-5-sonnet-20241022", "anthropic", SAMPLING_VERSION, "both"),
        ("claude-sonnet-4-20250514", "anthropic", SAMPLING_VERSION, "both"),
        ("claude-opus-4-1-20250805", "anthropic", SAMPLING_VERSION, "temperature"),
        ("claude-sonnet-4-6", "anthropic", SAMPLING_VERSION, "temperature"),
        ("claude-opus-4-7", "anthropic", SAMPLING_VERSION, "none"),
        ("claude-fable-5", "anthropic", SAMPLING_VERSION, "none"),
        ("claude-sonnet-4-6", "anthropic", "", "none"),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", "bedrock", "", "both"),
        ("anthropic.claude-opus-4-8", "bedrock", "", "none"),
        ("anthropic/claude-opus-4.6", "openai", "", "temperature"),
        ("databricks-claude-3-7-sonnet", "openai", "", "both"),
    ],
)
def test_claude_models_take_the_sampling_of_their_version(
    model: str, provider: Provider, api_version: str, sampling: str
) -> None:
    assert capabilities_of(model, provider=provider, api_version=api_version).sampling == sampling


def test_what_the_user_declares_wins() -> None:
    found = capabilities_of("o3", declared={"sampling": "both", "seed": False, "system": "system"})
    assert (found.sampling, found.seed, found.system, found.limit_name) == (
        "both",
        False,
        "system",
        "max_completion_tokens",
    )


@pytest.mark.parametrize(
    ("declared", "told"),
    [({"seeds": True}, "there are limit_name"), ({"seed": "yes"}, "true or false"), ({"system": "x"}, '"developer"')],
)
def test_a_declaration_of_something_unknown_is_refused(declared: dict[str, bool | str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        capabilities_of("m", declared=declared)


def test_a_request_that_the_model_takes_is_left_alone() -> None:
    assert fit(REQUEST, Capabilities()) is REQUEST


def test_what_the_model_does_not_take_is_left_out() -> None:
    fitted = fit(REQUEST, Capabilities(sampling="none", seed=False, stop=False, system="none"))
    assert fitted == ChatRequest(model="m", messages=(Message("user", "s\n\nu"),))
    assert fit(REQUEST, Capabilities(sampling="temperature")).top_p is None


@pytest.mark.parametrize(
    ("content", "how", "said", "thoughts"),
    [
        ("<think>a</think>b", "tags", "b", "a"),
        ("\n<think>\na\n</think>\n\nb", "tags", "b", "a"),
        ("<think>a", "tags", "", "a"),
        ("a</think>b", "tags", "a</think>b", ""),
        ("a</think>b", "open", "b", "a"),
        ("b", "open", "b", ""),
        ("<think>a</think>b", "open", "b", "a"),
        ("<think>a</think>b", "apart", "<think>a</think>b", ""),
        ("Thought: split at '<think>' and '</think>'", "tags", "Thought: split at '<think>' and '</think>'", ""),
    ],
)
def test_leading_thoughts_are_parted_from_what_is_said(content: str, how: Thoughts, said: str, thoughts: str) -> None:
    assert part_thoughts(content, "", how) == (said, thoughts)


def test_thoughts_join_what_the_endpoint_reported() -> None:
    assert part_thoughts("<think>b</think>c", "a", "tags") == ("c", "a\nb")


@given(st.text(alphabet="<think>/ab\n"))
def test_nothing_is_lost_or_invented(content: str) -> None:
    said, thoughts = part_thoughts(content, "", "tags")
    assert content.endswith(said)
    assert thoughts in content


def test_a_reply_is_cut_at_the_first_stop_string() -> None:
    assert cut_at_stop("a END b STOP", ("STOP", "END")) == "a "
    assert cut_at_stop("a", ("END",)) == "a"
