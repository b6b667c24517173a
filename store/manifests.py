"""Manifests: the files of a workspace at one moment, as references to blobs.

The stored form is a JSON object in the order of the paths, so that equal workspaces have one manifest: a file is
[blob, mode], a symbolic link its target, an empty folder its mode. Sockets, pipes and devices are not kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

import orjson

from store.errors import StoreError


class DroppedWorkspaceError(StoreError):
    """Raised when files are asked for that `cso gc` has given up because their run was finished."""

    def __init__(self) -> None:
        super().__init__("the files of this step were given up by `cso gc --workspaces-of-finished-runs`")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file: the number of the blob with its content, and its permission bits."""

    blob: int
    mode: int


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """A symbolic link and where it points; never followed."""

    target: str


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A folder that holds nothing; others follow from the paths of what they hold."""

    mode: int


Entry = FileEntry | LinkEntry | FolderEntry
# What a step names instead of a manifest once `cso gc` has given up its files: never read as "no files".
DROPPED = b"null"
# Marks a path that is not UTF-8; no path can hold this character itself.
_RAW = "\x00"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a workspace holds: relative POSIX paths of files, links and empty folders."""

    entries: Mapping[str, Entry]

    @classmethod
    def of_files(cls, files: Mapping[str, tuple[int, int]]) -> Self:
        """A manifest of regular files, given as path -> (blob, mode)."""
        return cls({path: FileEntry(*entry) for path, entry in files.items()})

    def encode(self) -> bytes:
        """The stored form."""
        return orjson.dumps({_key(path): _value(entry) for path, entry in sorted(self.entries.items())})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The manifest of a stored form.

        Raises:
            DroppedWorkspaceError: its files were given up.
        """
        if data == DROPPED:
            raise DroppedWorkspaceError
        raw = cast("dict[str, int | str | list[int]]", orjson.loads(data))
        return cls({_path(key): _entry(value) for key, value in raw.items()})


def _key(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        return _RAW + os.fsencode(path).hex()
    return path


def _path(key: str) -> str:
    return os.fsdecode(bytes.fromhex(key[1:])) if key.startswith(_RAW) else key


def _value(entry: Entry) -> int | str | list[int]:
    match entry:
        case FileEntry():
            return [entry.blob, entry.mode]
        case LinkEntry():
            return _key(entry.target)
        case FolderEntry():
            return entry.mode


def _entry(value: int | str | list[int]) -> Entry:
    match value:
        case int():
            return FolderEntry(value)
        case str():
            return LinkEntry(_path(value))
        case _:
            return FileEntry(*value)
