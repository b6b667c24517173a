"""Frames are read in whatever pieces they come, and nothing else is taken for one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sandbox.frames import FrameSocket, ProtocolError, encode_frame
from runtime.sandbox.zygote import socket_pair
from store.jsontypes import JsonValue

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end, which does not block, and that of a process of the sandbox."""
    near, far = socket_pair()
    with near, far:
        yield near, far


async def read(data: bytes) -> dict[str, JsonValue] | None:
    """What is read where these bytes came and nothing else will."""
    with connected() as (near, far):
        far.sendall(data)
        far.close()
        return await FrameSocket(near).read()


@given(st.dictionaries(st.text(), values))
def test_a_frame_holds_what_was_put_in(value: dict[str, JsonValue]) -> None:
    assert asyncio.run(read(encode_frame(value))) == value


async def test_a_read_that_was_cancelled_is_taken_up_again() -> None:
    with connected() as (near, far):
        frames = FrameSocket(near)
        for byte in encode_frame({"a": 1})[:-1]:
            far.send(bytes([byte]))
            with anyio.move_on_after(0.001) as waiting:
                await frames.read()
            assert waiting.cancelled_caught
        far.send(b"}")
        assert await frames.read() == {"a": 1}


async def test_a_read_that_is_cancelled_as_a_frame_arrives_loses_nothing() -> None:
    with connected() as (near, far):
        frames = FrameSocket(near)
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as reading:
            # The reader is waiting when this runs; both news reach it in one turn of the event loop.
            loop.call_soon(far.sendall, encode_frame({"a": 1}))
            loop.call_soon(lambda: loop.call_soon(reading.cancel))
            await frames.read()
        assert reading.cancelled_caught
        assert await frames.read() == {"a": 1}


async def test_frames_that_come_together_are_read_one_by_one() -> None:
    with connected() as (near, far):
        far.sendall(encode_frame({"a": 1}) + encode_frame({"b": 2}))
        frames = FrameSocket(near)
        assert [await frames.read(), await frames.read()] == [{"a": 1}, {"b": 2}]


async def test_a_large_frame_is_written_as_fast_as_it_is_read() -> None:
    frame = encode_frame({"text": "x" * 5_000_000})
    with connected() as (near, far):
        received = bytearray()

        def drain() -> None:
            while len(received) < len(frame):
                received.extend(far.recv(1 << 16))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, drain)
            await FrameSocket(near).write(frame)
        assert received == frame


async def test_writing_to_nobody_is_no_error_and_the_next_read_tells() -> None:
    with connected() as (near, far):
        far.close()
        frames = FrameSocket(near)
        await frames.write(encode_frame({"a": 1}))
        assert await frames.read() is None


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\5{}"])
async def test_a_stream_that_ends_within_a_frame_has_ended(data: bytes) -> None:
    assert await read(data) is None


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\1{", b'\0\0\0\4"\xff\xff"'])
async def test_anything_else_is_no_frame(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        await read(data)
