"""Blobs: what goes in comes out, whatever it is, and damage is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.blobs import content_digest, decode_blob, decode_text, encode_blob


@given(st.binary(max_size=5000))
def test_any_bytes_come_back(content: bytes) -> None:
    assert decode_blob(encode_blob(content)) == content


@given(st.text(alphabet=st.characters(), max_size=500))
def test_any_text_comes_back_lone_surrogates_included(text: str) -> None:
    assert decode_text(encode_blob(text.encode("utf-8", errors="surrogatepass"))) == text


def test_a_repetitive_text_takes_a_fraction_of_its_length() -> None:
    assert len(encode_blob(b"observation " * 1000)) < 200


def test_digests_are_sixteen_bytes_and_differ() -> None:
    assert len(content_digest(b"a")) == 16
    assert content_digest(b"a") != content_digest(b"b")


@pytest.mark.parametrize("data", [b"\x01garbage", b"\x07", b""])
def test_a_damaged_row_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="blob"):
        decode_blob(data)
