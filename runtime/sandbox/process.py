"""The sandbox that runs code in processes of its own, forked from a warm interpreter."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

from runtime.errors import InfrastructureError
from runtime.logs import get_logger
from runtime.sandbox.census import Census
from runtime.sandbox.child.identity import BLOCK, Identity
from runtime.sandbox.execution import Ending, Execution, Limits, Tool
from runtime.sandbox.footing import Footing, find_footing, no_workspace
from runtime.sandbox.session import Session, encode_program
from runtime.sandbox.supervisor import SupervisorHandle, Terms
from runtime.sandbox.zygote import ZygoteHandle
from store.trouble import has_room

_log = get_logger("sandbox")

# Each execution has two user ids out of a block.
_MAX_SLOTS = BLOCK // 2
# Until then the request is under way for whose reply an execution is expected.
_SOON_S = 0.02


class ProcessSandbox:
    """Runs up to `slots` executions at once, each in processes of its own that end with it.

    To be used as an async context manager, in the thread and on the event loop that stay until it is left. No process
    outlives it, nor this process, however that ends. `python` names the interpreter that runs the code (by default
    this one, or the system's where users without privileges cannot reach it).

    What it protects from code rests on user ids, resource limits and process supervision. As root, code runs under
    unprivileged ids that no other process has; as an ordinary user, it runs as that user.
    """

    def __init__(self, *, slots: int = 256, python: Path | None = None) -> None:
        if not 1 <= slots <= _MAX_SLOTS:
            raise ValueError(f"slots must be from 1 to {_MAX_SLOTS}")
        self._python = python
        self._places = anyio.Semaphore(slots, fast_acquire=True)
        self._free = dict.fromkeys(range(slots))
        self._supervisors: dict[int, SupervisorHandle] = {}
        self._homes: dict[Path, int] = {}
        self._expected: dict[Path, asyncio.TimerHandle] = {}
        self._numbers = itertools.count()
        self._census = Census()
        self._marker = secrets.token_hex(16)
        self._starting = anyio.Lock(fast_acquire=True)
        self._footing: Footing | None = None
        self._zygote: ZygoteHandle | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        """Begin to start, which takes a tenth of a second; `ready` waits for it, as does the first run.

        Raises:
            ConfigError: there is no interpreter that code could run with.
            InfrastructureError: it cannot be started.
        """
        self._footing = find_footing(self._python)
        self._zygote = ZygoteHandle.spawn(self._footing, self._marker)
        return self

    async def ready(self) -> None:
        """Wait until code could run.

        Raises:
            InfrastructureError: the zygote did not start.
        """
        await self._living_zygote(self._started_on)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every execution, and wait until nothing is left of them."""
        self._closed = True
        for workspace in list(self._expected):
            self._expect_no_more(workspace)
        with anyio.CancelScope(shield=True):
            if self._zygote is not None:
                await self._zygote.stop()
        for supervisor in self._supervisors.values():
            supervisor.close()

    def expect(self, workspace: Path, *, tools: Collection[str], limits: Limits) -> None:
        """Have a runner made a moment later, so that what the caller does next goes first; see Sandbox.expect."""
        self._expect_no_more(workspace)
        loop = asyncio.get_running_loop()
        self._expected[workspace] = loop.call_later(_SOON_S, self._make_ready, workspace, tools, limits)

    def forget(self, workspace: Path) -> None:
        """Let go of the supervisor of a folder, which would stay for a while; see Sandbox.forget."""
        self._expect_no_more(workspace)
        slot = self._homes.get(Path(os.path.realpath(workspace)))
        if slot in self._free:
            self._supervisors[slot].retire()

    async def run(self, code: str, *, workspace: Path, tools: Mapping[str, Tool], limits: Limits) -> Execution:
        """Run Python code; see Sandbox.run."""
        footing = self._started_on
        program = encode_program(code)
        if program is None:
            return Execution(output="", error="The code is too long.", ending=Ending.EXCEPTION, seconds=0.0)
        self._expect_no_more(workspace)
        workspace = _existing(workspace)
        footing.check_workspace(workspace)
        async with self._slot(workspace) as slot:
            terms = Terms.of(workspace, tools, limits)
            zygote = await self._living_zygote(footing)
            others = await self._others(footing)
            supervisor = await self._supervisor(zygote, slot, workspace, terms)
            try:
                if not supervisor.awaits_code():
                    supervisor.begin(terms, others=others)
                execution = await Session(zygote, supervisor, limits).conduct(program, tools)
            finally:
                supervisor.rest()
                self._take_back(zygote, slot, workspace)
        # Its own temporary files are gone by now.
        if not execution.ok and not has_room(zygote.scratch):
            folder = zygote.scratch.parent
            raise InfrastructureError(
                "the disk of temporary files is full, so that code which failed says nothing: "
                f"free some space in {folder}"
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return execution

    @contextlib.asynccontextmanager
    async def _slot(self, workspace: Path) -> AsyncIterator[int]:
        """A number that no other execution has, if possible the one that this workspace had before.

        Its supervisor can go on then, and its files need not change hands, which would make them look changed.
        """
        async with self._places:
            slot = self._former_slot(workspace)
            if slot not in self._free:
                vacant = self._vacant_slot()
                slot = next(iter(self._free)) if vacant is None else vacant
            del self._free[slot]
            try:
                yield slot
            finally:
                self._free[slot] = None

    def _former_slot(self, workspace: Path) -> int:
        if workspace in self._homes:
            return self._homes[workspace]
        first = self._zygote.first_uid if self._zygote is not None else None
        if first is None:
            return -1
        try:
            return (workspace.stat().st_gid - first) // 2
        except OSError as error:  # it was there before we waited for a place
            raise no_workspace(workspace, error) from error

    @property
    def _started_on(self) -> Footing:
        if self._footing is None:
            raise InfrastructureError("the sandbox has not been started")
        return self._footing

    def _make_ready(self, workspace: Path, tools: Collection[str], limits: Limits) -> None:
        del self._expected[workspace]
        try:
            others = self._census.latest if self._started_on.uids is None else 0
            if others is None:
                return
            supervisor = self._supervisor_now(_existing(workspace))
            if supervisor is None or supervisor.awaits_code():
                return
            try:
                supervisor.begin(Terms.of(supervisor.workspace, tools, limits), others=others)
            finally:
                supervisor.rest()
        except InfrastructureError as error:  # which the code will meet as well, if that comes
            _log.debug("sandbox-not-ready", error=str(error))

    def _expect_no_more(self, workspace: Path) -> None:
        expected = self._expected.pop(workspace, None)
        if expected is not None:
            expected.cancel()

    async def _supervisor(self, zygote: ZygoteHandle, slot: int, workspace: Path, terms: Terms) -> SupervisorHandle:
        """The supervisor of a workspace, which has no other: nothing passes from one rollout's code to another's."""
        former = self._supervisors.get(slot)
        if former is not None:
            if former.serving and former.workspace == workspace and former.suits(terms):
                return former
            await former.leave()
        home = self._homes.get(workspace)
        if home is not None and home != slot:
            await self._supervisors[home].leave()  # it may have begun, and would hand the workspace over to itself
        supervisor = await SupervisorHandle.start(zygote, next(self._numbers), slot=slot, workspace=workspace)
        self._install(zygote, slot, supervisor)
        return supervisor

    def _supervisor_now(self, workspace: Path) -> SupervisorHandle | None:
        """The supervisor of a workspace without an execution, if that is at nobody's expense, and without a wait."""
        zygote, home = self._zygote, self._homes.get(workspace)
        if zygote is None:
            return None
        if home is not None:
            if home not in self._free:
                return None
            former = self._supervisors[home]
            if not former.gone.is_set():
                return former if former.serving else None
        slot = self._vacant_slot()
        if slot is None:
            return None
        supervisor = SupervisorHandle.start_now(zygote, next(self._numbers), slot=slot, workspace=workspace)
        if supervisor is not None:
            self._install(zygote, slot, supervisor)
        return supervisor

    def _vacant_slot(self) -> int | None:
        """A slot that neither an execution nor a supervisor has."""
        for slot in self._free:
            former = self._supervisors.get(slot)
            if former is None or former.gone.is_set():
                return slot
        return None

    def _install(self, zygote: ZygoteHandle, slot: int, supervisor: SupervisorHandle) -> None:
        former = self._supervisors.get(slot)
        if former is not None and self._homes.get(former.workspace) == slot:
            del self._homes[former.workspace]
            self._take_back(zygote, slot, former.workspace)  # whose code may have been awaited and not have come
        self._supervisors[slot] = supervisor
        self._homes[supervisor.workspace] = slot

    async def _others(self, footing: Footing) -> int:
        """The processes that the kernel counts together with the code's."""
        return await self._census.others() if footing.uids is None else 0

    async def _living_zygote(self, footing: Footing) -> ZygoteHandle:
        async with self._starting:
            if self._closed:
                raise InfrastructureError("the sandbox has been closed")
            if self._zygote is not None and self._zygote.dead:
                await self._zygote.stop()  # what it could not tidy up itself
                self._zygote = None
            if self._zygote is None:
                self._zygote = ZygoteHandle.spawn(footing, self._marker)
            await self._zygote.greeted()
            return self._zygote

    def _take_back(self, zygote: ZygoteHandle, slot: int, workspace: Path) -> None:
        """Close a workspace to the user id that its code has, which other code will have.

        The group stays and tells which slot it was; group ids are never given to code of another slot.
        """
        if zygote.first_uid is None:
            return
        identity = Identity.of_slot(zygote.first_uid, slot)
        try:
            os.chown(workspace, os.geteuid(), identity.code, follow_symlinks=False)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("workspace-not-taken-back", workspace=str(workspace), error=str(error))


def _existing(workspace: Path) -> Path:
    try:
        return Path(os.path.realpath(workspace, strict=True))
    except OSError as error:
        raise no_workspace(workspace, error) from error
