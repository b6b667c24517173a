"""A picture made on the spot, to ask a model whether it sees."""

from __future__ import annotations

import struct
import zlib

from store.messages import image_url

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREYSCALE_OF_8_BITS = b"\x08\x00\x00\x00\x00"


def white_square(side: int) -> str:
    """The data URL of a white PNG with sides of some pixels."""
    rows = (b"\x00" + b"\xff" * side) * side  # each begins with its filter, none
    header = struct.pack(">II", side, side) + _GREYSCALE_OF_8_BITS
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")]
    return image_url(_SIGNATURE + b"".join(chunks), "png")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
