"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.folders import reachable_folder


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, the one backend that aiohttp has."""
    return "asyncio"


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that is yet to be made."""
    with reachable_folder() as folder:
        yield folder / "data"
