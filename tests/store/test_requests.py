"""Stored requests: any conversation comes back as it was, and what conversations share is stored once."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.messages import Message, MessageRole, image_url
from store.requests import decode_request, encode_request, referenced_blobs

ROLES = st.sampled_from(["system", "user", "assistant"])
PARTS = st.lists(st.text(max_size=120), min_size=1, max_size=4)
IMAGES = st.lists(st.binary(max_size=200), max_size=2)
MESSAGES = st.lists(st.tuples(ROLES, PARTS, IMAGES), max_size=6)


class Texts:
    """Stands for the blobs: each text once, by number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def store(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers) + 1)

    @property
    def by_number(self) -> dict[int, str]:
        return {number: text for text, number in self.numbers.items()}


@given(MESSAGES)
def test_any_conversation_comes_back_as_it_was(turns: list[tuple[str, list[str], list[bytes]]]) -> None:
    texts = Texts()
    messages = tuple(
        replace(
            Message.joined(cast("MessageRole", role), *parts),
            images=tuple(image_url(content, "png") for content in images),
        )
        for role, parts, images in turns
    )
    stored = encode_request(messages, texts.store)
    assert decode_request(stored, texts.by_number) == messages
    assert referenced_blobs(stored) == set(texts.by_number)


def test_what_two_conversations_share_is_stored_once() -> None:
    texts = Texts()
    shared = "An observation that is longer than what is kept in place. " * 3
    for step in range(3):
        encode_request((Message.joined("user", "Observation:\n", shared, f"\n\nStep {step}."),), texts.store)
    assert list(texts.numbers) == [shared]


def test_a_short_text_is_kept_in_place_even_if_it_looks_like_a_number() -> None:
    texts = Texts()
    messages = (Message("user", "7"), Message("assistant", ""))
    stored = encode_request(messages, texts.store)
    assert texts.numbers == {}
    assert decode_request(stored, {}) == messages


def test_a_text_that_is_missing_is_no_empty_text() -> None:
    stored = encode_request((Message("user", "x" * 200),), Texts().store)
    with pytest.raises(KeyError):
        decode_request(stored, {})
