"""Content-addressed pieces of text and bytes: each stored once, compressed where that helps.

A blob's identity is the BLAKE2b digest of its plain content; rows refer to it by a small integer.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass

import zstandard

# Decompressing refuses a frame that claims more, so that a damaged row cannot take all memory.
MAX_BLOB_BYTES = 1 << 30

_PLAIN = b"\x00"
_ZSTD = b"\x01"
# Below this a zstd frame's own header eats what it could save.
_COMPRESS_FROM = 96
_LEVEL = 3
_CACHE_TEXTS = 20_000
_CACHE_TEXT_BYTES = 32 << 20


def content_digest(content: bytes) -> bytes:
    """The 16-byte BLAKE2b digest under which a content is stored."""
    return hashlib.blake2b(content, digest_size=16).digest()


def make_compressor() -> zstandard.ZstdCompressor:
    """What compresses blobs; for one thread, where it is worth keeping."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)


def encode_blob(content: bytes, compressor: zstandard.ZstdCompressor | None = None) -> bytes:
    """The stored form of a content: one marker byte, then the bytes, compressed if that is shorter."""
    if len(content) >= _COMPRESS_FROM:
        packed = (compressor or make_compressor()).compress(content)
        if len(packed) < len(content):
            return _ZSTD + packed
    return _PLAIN + content


@dataclass(frozen=True, slots=True)
class Packed:
    """A content in its stored form, made ready where it does not hold up the writer."""

    digest: bytes
    data: bytes


def pack(content: bytes) -> Packed:
    """A content as it will be stored."""
    return Packed(content_digest(content), encode_blob(content))


def decode_blob(data: bytes) -> bytes:
    """The content of a stored form.

    Raises:
        ValueError: the row is damaged.
    """
    marker, body = data[:1], data[1:]
    if marker == _PLAIN:
        return body
    if marker != _ZSTD:
        raise ValueError("a blob has an unknown marker byte: the database is damaged")
    try:
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=MAX_BLOB_BYTES)
    except zstandard.ZstdError as error:
        raise ValueError(f"a blob cannot be decompressed: {error}") from error


def decode_text(data: bytes) -> str:
    """The content of a stored text."""
    return decode_blob(data).decode("utf-8", errors="surrogatepass")


class BlobWriter:
    """Stores blobs on the writer's connection and remembers the ids of recent texts.

    The memory saves digesting and looking up the system messages and histories that call after call repeats.
    It must be forgotten when a transaction is rolled back, since ids given in it then name nothing.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._compressor = make_compressor()
        self._ids: dict[str, int] = {}
        self._held = 0

    def text(self, text: str) -> int:
        """The id of a text, storing it if it is new."""
        known = self._ids.get(text)
        if known is not None:
            return known
        identifier = self.content(text.encode("utf-8", errors="surrogatepass"))
        if len(self._ids) >= _CACHE_TEXTS or self._held >= _CACHE_TEXT_BYTES:
            self.forget()
        self._ids[text] = identifier
        self._held += len(text)
        return identifier

    def content(self, content: bytes) -> int:
        """The id of some bytes, storing them if they are new."""
        return self.packed(Packed(content_digest(content), encode_blob(content, self._compressor)))

    def packed(self, packed: Packed) -> int:
        """The id of a content, storing it if it is new."""
        # Most are new, so that looking first would only cost.
        added = self._connection.execute(
            "INSERT INTO blobs (digest, data) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING",
            (packed.digest, packed.data),
        )
        if added.rowcount and added.lastrowid is not None:
            return added.lastrowid
        (known,) = self._connection.execute("SELECT id FROM blobs WHERE digest = ?", (packed.digest,)).fetchone()
        return int(known)

    def forget(self) -> None:
        """Drop the remembered ids."""
        self._ids.clear()
        self._held = 0
