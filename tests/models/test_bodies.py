"""Tests of reading completions as different servers write them."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.models.bodies import Answer, read_answer
from runtime.models.chat import Usage
from runtime.models.faults import Fault
from tests.models.server import completion


def read(document: object) -> Answer | Fault:
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return read_answer(body, "", lambda text: text.decode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "b"}, "b"),
        ({"reasoning_content": None, "reasoning": "b"}, "b"),
        ({"reasoning": {"effort": 1}}, ""),
        ({}, ""),
    ],
)
def test_reasoning_is_kept_apart_wherever_it_is(message: dict[str, object], reasoning: str) -> None:
    answer = read(completion("<think>c</think>hi", "stop", **message))
    assert isinstance(answer, Answer)
    assert (answer.content, answer.reasoning) == ("<think>c</think>hi", reasoning)


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}, 3]
    answer = read(completion(parts))
    assert isinstance(answer, Answer)
    assert (answer.content, answer.reasoning) == ("ab", "hm")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage(prompt=0, completion=0)),
        ({"prompt_tokens": 3, "completion_tokens": 2}, Usage(prompt=3, completion=2)),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(prompt=3, completion=0)),
        (
            {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None, "prompt_cache_hit_tokens": 1},
            Usage(prompt=3, completion=2, cached=1),
        ),
        ({"prompt_tokens": -1, "completion_tokens": "x"}, Usage(prompt=0, completion=0)),
        ({"prompt_tokens": 2**64 - 1, "completion_tokens": 2**63}, Usage(prompt=0, completion=0)),
    ],
)
def test_usage_is_read_as_far_as_it_goes(usage: object, expected: Usage) -> None:
    answer = read({**completion(), "usage": usage})
    assert isinstance(answer, Answer)
    assert answer.usage == expected


def test_lone_surrogates_in_a_reply_become_replacement_characters() -> None:
    body = orjson.dumps(completion("hi")).replace(b'"hi"', b'"a\\ud83db\\ud83d\\ude00"')
    answer = read(body)
    assert isinstance(answer, Answer)
    assert answer.content == "a\ufffdb😀"
    answer.content.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["choices", "message", "content", "error", "usage"]), inner)
    ),
    max_leaves=10,
)


@given(JSON)
def test_no_json_breaks_the_reader(document: object) -> None:
    assert isinstance(read(json.dumps(document).encode()), Answer | Fault)


@given(st.binary())
def test_no_bytes_break_the_reader(body: bytes) -> None:
    assert isinstance(read(body), Answer | Fault)


@pytest.mark.parametrize("message", [{"content": None}, {}])
def test_a_reply_of_nothing_that_does_not_say_that_it_is_done_is_none(message: dict[str, object]) -> None:
    for reason in (None, ""):
        found = read({"choices": [{"message": message, "finish_reason": reason}]})
        assert isinstance(found, Fault)
        assert found.reason == "the reply is empty and does not say that it is done"
    done = read({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert isinstance(done, Answer), "a model may have nothing to say"
