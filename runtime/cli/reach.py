"""Reaching whoever may change a data directory: its daemon, if there is one, or else the database itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import anyio

from runtime.api.token import api_token
from runtime.cli.output import say
from runtime.cli.runs import one_run
from runtime.clock import loop_time
from runtime.config.settings import Settings
from runtime.control import Control, LocalControl
from runtime.errors import CsoError
from runtime.notice import living_notice
from store.database import FILE_NAME, Database, Reader
from store.errors import DataLockedError, NoDatabaseError

# A daemon that starts has the lock some time before it listens, and a command has it for a moment.
_WAIT_S = 10.0
_LOOK_S = 0.1
_PATIENCE_S = 2.0
_ANSWER_S = 1.0


@dataclass(frozen=True, slots=True)
class Reached:
    """Someone who takes orders, and whether it is a daemon at work."""

    control: Control
    is_daemon: bool


@contextlib.asynccontextmanager
async def reach(settings: Settings, *, may_begin: bool = False) -> AsyncIterator[Reached]:
    """Find the daemon of the data directory, or open the database in its stead.

    Args:
        may_begin: make the data directory if there is none.

    Raises:
        DataLockedError: a process has the directory and cannot be talked to.
        NoDatabaseError: there is nothing to give orders about.
    """
    if not may_begin and not (settings.run.data / FILE_NAME).is_file():
        raise NoDatabaseError(settings.run.data)
    async with contextlib.AsyncExitStack() as stack:
        yield await _reach(stack, settings)


async def _reach(stack: contextlib.AsyncExitStack, settings: Settings) -> Reached:
    folder, until = settings.run.data, loop_time() + _WAIT_S
    while True:
        notice = living_notice(folder)
        if notice is not None:
            # Imported here because only a daemon's client needs it, as only the others need what `_opened` imports.
            from runtime.api.client import connect

            token, name = api_token(settings.api, os.environ), settings.api.token_env
            remote = await stack.enter_async_context(connect(notice.url, token=token, token_env=name))
            return Reached(remote, is_daemon=True)
        try:
            database = await stack.enter_async_context(_opened(folder))
        except DataLockedError:
            if loop_time() >= until:
                raise
        else:
            return Reached(LocalControl(database, settings), is_daemon=False)
        await anyio.sleep(_LOOK_S)


def _opened(folder: Path) -> Database:
    # Imported here because it brings all stages and agents with it, of which a daemon's client needs none.
    from runtime.handler import handler_classes, subscriptions

    return Database(folder, subscriptions=subscriptions(handler_classes().values()))


@contextlib.asynccontextmanager
async def patience(reached: Reached, *, lets_go: bool) -> AsyncIterator[None]:
    """Say why it takes long, if it does and the daemon is the reason.

    Args:
        lets_go: the daemon has to let go of work, which it does once the replies that it pays for have arrived.
    """
    async with anyio.create_task_group() as tasks:
        if reached.is_daemon:
            tasks.start_soon(_explain, reached.control, lets_go)
        yield
        tasks.cancel_scope.cancel()


async def _explain(control: Control, lets_go: bool) -> None:
    from runtime.api.client import DaemonGoneError, RemoteControl  # see `_reach`

    assert isinstance(control, RemoteControl)
    await anyio.sleep(_PATIENCE_S)
    try:
        with anyio.fail_after(_ANSWER_S):
            daemon = await control.look()
    except (DaemonGoneError, TimeoutError):
        say("the daemon does not answer yet: what it is asked for is done once it does; its log may say why")
        return
    except CsoError:
        return  # which the request itself will meet
    endpoints = cast("dict[str, dict[str, int]]", daemon["endpoints"])
    if lets_go and any(endpoint["in_flight"] for endpoint in endpoints.values()):
        say("waiting for replies that are being paid for")


async def run_name(settings: Settings, name: str | None) -> str:
    """The run that a command is about: the one named, or the only one there is.

    Raises:
        ConfigError: there is no such run, or there are several to choose from.
    """
    async with Reader(settings.run.data) as reader:
        return (await one_run(reader, name)).name
