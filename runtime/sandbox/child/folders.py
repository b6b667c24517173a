"""The two folders of code: its workspace, which stays, and one for temporary files, which is emptied each time."""

from __future__ import annotations

import contextlib
import os

from . import tree
from .identity import Identity

_CLEAN_S = 2.0


class Folders:
    """The folders of one execution, open, and the code's own if it has an identity."""

    def __init__(self, workspace: str, scratch: str, identity: Identity | None) -> None:
        """Hand the workspace over, and make the other if it is not there.

        Raises:
            OSError: there is no workspace, or the file system knows no owners.
        """
        self._identity = identity
        with contextlib.nullcontext() if identity is None else identity.as_root():
            self.workspace = tree.open_folder(workspace)
            with contextlib.suppress(FileExistsError):
                os.mkdir(scratch, 0o700)  # noqa: PTH102 - no pathlib in what every execution runs
            self._scratch = tree.open_folder(scratch)
            if identity is not None:
                tree.hand_over(self.workspace, identity.code, identity.block)
                os.fchown(self._scratch, identity.code, identity.code)

    def tidy(self) -> None:
        """Make the workspace readable and empty the other, each within some seconds; the code has ended."""
        identity = self._identity
        with contextlib.nullcontext() if identity is None else identity.as_code():
            tree.make_readable(self.workspace, _CLEAN_S)
            tree.empty(self._scratch, _CLEAN_S)
        os.close(self.workspace)
        os.close(self._scratch)
