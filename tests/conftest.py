"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, the one backend that aiohttp has."""
    return "asyncio"


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory whose workspaces sandboxed code can reach, as below pytest's own folder it cannot for root."""
    folder = Path(tempfile.mkdtemp(prefix="cso-test-"))
    folder.chmod(0o711)
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=os.geteuid() != 0)
