"""A deadline on work. Missing one is trouble: the work is done again later, and nothing follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from runtime.errors import InfrastructureError


@contextmanager
def deadline(seconds: float, *, what: str, setting: str) -> Iterator[None]:
    """End the block after so many seconds of waiting and back-off included, but never a model's attempt on its way.

    Args:
        what: what the block does, in the words of the error.
        setting: the dotted key where the seconds come from.

    Raises:
        InfrastructureError: the time was up before the block was done.
    """
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise InfrastructureError(
            f"{what} took longer than the {seconds:g} s of {setting}, with all waits and retries; "
            "its replies are kept, and it goes on from them when it is tried again"
        )
