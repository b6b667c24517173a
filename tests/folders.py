"""Folders whose files sandboxed code can reach, as below pytest's own folder it cannot when we are root."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """An empty folder, removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="cso-test-"))
    # Code runs under user ids of its own, which may pass through here and not look around.
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=os.geteuid() != 0)
