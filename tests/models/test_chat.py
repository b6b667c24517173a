"""Tests of the canonical form of a request."""

from __future__ import annotations

import orjson

from runtime.models.chat import ChatRequest, digest_of
from store.messages import Message, image_url


def request(content: str = "hello", **fields: object) -> ChatRequest:
    return ChatRequest(model="m", messages=(Message("user", content),), **fields)  # type: ignore[arg-type]


def test_parameters_that_are_not_set_are_not_sent() -> None:
    assert request().body() == b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
    assert b'"temperature":0.0' in request(temperature=0.0).body()


def test_what_a_message_carries_for_the_store_is_neither_sent_nor_digested() -> None:
    joined = ChatRequest(model="m", messages=(Message.joined("user", "hel", "lo"),))
    assert joined.body() == request().body()


def test_equal_requests_have_equal_digests_and_others_have_not() -> None:
    variants = [
        request(),
        request("other"),
        request(seed=1),
        request(seed=2),
        request(temperature=0.5),
        request(stop=("x",)),
    ]
    digests = {digest_of(variant.body()) for variant in variants}
    assert len(digests) == len(variants)
    assert {len(digest) for digest in digests} == {16}
    assert digest_of(request(seed=1).body()) == digest_of(request(seed=1).body())


def test_a_message_of_images_alone_has_no_empty_text_and_each_image_counts() -> None:
    pictures = [image_url(content, "png") for content in (b"a", b"b")]
    seen = [ChatRequest(model="m", messages=(Message("user", "", images=(url,)),)) for url in pictures]
    assert orjson.loads(seen[0].body())["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": pictures[0]}}
    ]
    assert digest_of(seen[0].body()) != digest_of(seen[1].body())


def test_lone_surrogates_do_not_stop_a_request() -> None:
    body = request("a\ud800b").body()
    assert orjson.loads(body)["messages"][0]["content"] == "a?b"
