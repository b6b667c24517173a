"""Frames are read in whatever pieces they come, and nothing else is taken for one."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sandbox.frames import FrameReader, ProtocolError, encode_frame
from store.jsontypes import JsonValue

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def reader(data: bytes) -> FrameReader:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    return FrameReader(stream)


@given(st.dictionaries(st.text(), values))
def test_a_frame_holds_what_was_put_in(value: dict[str, JsonValue]) -> None:
    async def read() -> dict[str, JsonValue] | None:
        return await reader(encode_frame(value)).read()

    assert asyncio.run(read()) == value


async def test_a_read_that_was_cancelled_is_taken_up_again() -> None:
    stream = asyncio.StreamReader()
    frames = FrameReader(stream)
    for byte in encode_frame({"a": 1})[:-1]:
        stream.feed_data(bytes([byte]))
        with anyio.move_on_after(0.001) as waiting:
            await frames.read()
        assert waiting.cancelled_caught
    stream.feed_data(b"}")
    assert await frames.read() == {"a": 1}


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\5{}"])
async def test_a_stream_that_ends_within_a_frame_has_ended(data: bytes) -> None:
    assert await reader(data).read() is None


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\1{", b'\0\0\0\4"\xff\xff"'])
async def test_anything_else_is_no_frame(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        await reader(data).read()
