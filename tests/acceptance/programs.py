"""`cso` as a user starts it: a process of its own, that can be watched through its database and stopped."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import orjson

from runtime.config.fallbacks import TARGETS
from store.database import FILE_NAME

DEADLINE_S = 120
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it wrote."""

    status: int
    output: str
    said: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on its standard output."""
        found = orjson.loads(self.output)
        assert isinstance(found, dict)
        return found


async def cso(*words: str | Path, environ: Mapping[str, str] | None = None) -> Ran:
    """Run a command to its end."""
    with anyio.fail_after(DEADLINE_S):
        ended = await anyio.run_process(command(words), check=False, env=_environ(environ), cwd=_ROOT)
    return Ran(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


async def start(*words: str | Path, environ: Mapping[str, str] | None = None) -> anyio.abc.Process:
    """Start a command in a session of its own, so that a Ctrl-C can be sent to all of it and to nobody else."""
    return await anyio.open_process(
        command(words), env=_environ(environ), cwd=_ROOT, stdout=None, stderr=None, start_new_session=True
    )


def command(words: Sequence[str | Path]) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "runtime.cli.main", *map(str, words)]


async def until_paid(data: Path, calls: int) -> None:
    """Wait until the journal of a data directory holds so many replies; set your own deadline."""
    # The database is all that two processes share; nobody tells us of its commits.
    while paid(data) < calls:  # noqa: ASYNC110
        await anyio.sleep(0.01)


def paid(data: Path) -> int:
    """How many replies the journal holds."""
    file = data / FILE_NAME
    if not file.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM calls").fetchone()[0])
        except sqlite3.OperationalError:  # the tables are yet to be made
            return 0


def _environ(extra: Mapping[str, str] | None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("CSO_")}
    return {**{name: value for name, value in own.items() if name not in TARGETS.values()}, **(extra or {})}
