"""The daemon's end of the zygote: starting it, asking it for supervisors, and knowing at once when it is dead."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio
import orjson

from runtime.errors import InfrastructureError
from runtime.logs import get_logger
from runtime.sandbox.child import tree
from runtime.sandbox.child.leftovers import PREFIX
from runtime.sandbox.footing import Footing
from store.jsontypes import JsonValue

_log = get_logger("sandbox")

_START_S = 30.0
_SEND_S = 30.0
_STOP_S = 30.0
_KILL_S = 5.0
_REMOVE_S = 10.0
_MAX_GREETING = 1 << 16
_PATH = "/usr/local/bin:/usr/bin:/bin"
_HERE = Path(__file__).parent
_BOOTSTRAP = """
import json, sys
sys.path.insert(0, sys.argv[1])
from child import forkhooks
forkhooks.keep_back()
from child.zygote import main
main(json.loads(sys.argv[2]))
"""


class ZygoteHandle:
    """A running zygote. It ends when this process does, however that happens.

    Attributes:
        scratch: the folder in which those for temporary files of executions are made.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, scratch: Path) -> None:
        self._process = process
        self._control = control
        self.scratch = scratch
        self._sending = anyio.Lock()
        self._dead = anyio.Event()
        self._condemned = False
        self._greeted = False
        self._mourners: set[Callable[[], None]] = set()
        self._pidfd = os.pidfd_open(process.pid)
        self.first_uid: int | None = None
        asyncio.get_running_loop().add_reader(self._pidfd, self._died)

    @classmethod
    def spawn(cls, footing: Footing, marker: str) -> ZygoteHandle:
        """Start a zygote whose executions carry a marker in their environment, without waiting until it has come up.

        To be called in the thread that runs the event loop for as long as the zygote is needed, because the zygote
        ends with the thread that started it.

        Raises:
            InfrastructureError: there can be no such process.
        """
        near, far = socket_pair(socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo:
            undo.callback(near.close)
            try:
                with far:
                    scratch = _make_scratch(footing)
                    undo.callback(shutil.rmtree, scratch, ignore_errors=True)
                    process = _spawn(footing, far, scratch, marker)
            except OSError as error:
                raise InfrastructureError(f"the sandbox's zygote did not start: {error}") from error
            undo.pop_all()
        return cls(process, near, scratch)

    async def greeted(self) -> None:
        """Wait until it has come up; for one at a time.

        Raises:
            InfrastructureError: it did not, and is dead.
        """
        if self._greeted:
            return
        try:
            await self._greet()
        except InfrastructureError:
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise
        self._greeted = True

    @property
    def dead(self) -> bool:
        """Whether it has ended, or is about to because it was of no use any more."""
        return self._condemned or self._dead.is_set()

    @contextlib.contextmanager
    def mourning(self, call: Callable[[], None]) -> Iterator[None]:
        """Have a function called if the zygote dies, or is stopped, during the block."""
        self._mourners.add(call)
        try:
            yield
        finally:
            self._mourners.discard(call)

    async def fork(self, request: dict[str, JsonValue], control: socket.socket) -> None:
        """Ask for a supervisor, handing over the far end of its control socket.

        Raises:
            InfrastructureError: the zygote is dead or does not listen.
        """
        message = orjson.dumps(request)
        try:
            with anyio.fail_after(_SEND_S):
                async with self._sending:
                    while not self._send(message, [control.fileno()]):
                        await anyio.wait_writable(self._control)
        except (OSError, TimeoutError, anyio.ClosedResourceError) as error:
            self.destroy()
            raise InfrastructureError(f"the sandbox's zygote takes no more work: {error!r}") from error

    def fork_now(self, request: dict[str, JsonValue], control: socket.socket) -> bool:
        """Ask for a supervisor if the zygote is up and has room for the request; whether it was asked."""
        if self.dead or not self._greeted or self._sending.locked():
            return False
        try:
            return self._send(orjson.dumps(request), [control.fileno()])
        except OSError:
            return False

    def kill_supervisor(self, number: int) -> None:
        """Have the zygote kill a supervisor that does not answer, and end what that leaves behind."""
        with contextlib.suppress(OSError):
            self._send(orjson.dumps({"kill": number}), [])

    def destroy(self) -> None:
        """Kill the zygote, because it does not answer; its supervisors end by themselves."""
        if not self._condemned:
            self._condemned = True
            _log.warning("zygote-destroyed", pid=self._process.pid)
            self._process.kill()

    async def stop(self) -> None:
        """End the zygote and all executions, and wait until they are gone."""
        self._mourn()
        self._control.close()
        if not await self.ends_within(_STOP_S):
            self.destroy()
            await self.ends_within(_KILL_S)
        # The zygote removes it, if it gets to that.
        with contextlib.suppress(OSError):
            await anyio.to_thread.run_sync(tree.remove, str(self.scratch), _REMOVE_S)

    async def ends_within(self, seconds: float) -> bool:
        """Whether it ends in so many seconds, or has."""
        with anyio.move_on_after(seconds):
            await self._dead.wait()
        return self._dead.is_set()

    async def _greet(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            with anyio.fail_after(_START_S):
                greeting = await loop.sock_recv(self._control, _MAX_GREETING)
        except (OSError, TimeoutError) as error:
            raise InfrastructureError(f"the sandbox's zygote did not start: {error!r}") from error
        answer = orjson.loads(greeting or b'{"problem": "it ended at once (it needs Python 3.9 or later)"}')
        if "problem" in answer:
            raise InfrastructureError(f"the sandbox's zygote did not start: {answer['problem']}")
        self.first_uid = answer["first_uid"]

    def _send(self, message: bytes, descriptors: Sequence[int]) -> bool:
        """Send if there is room; whether there was."""
        try:
            socket.send_fds(self._control, [message], descriptors)
        except BlockingIOError:
            return False
        return True

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._dead.set()
        self._mourn()

    def _mourn(self) -> None:
        for call in list(self._mourners):
            call()


def socket_pair(kind: socket.SocketKind = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets: ours, which does not block, and that of a process of the sandbox, which does.

    Raises:
        InfrastructureError: there are too many open files.
    """
    try:
        near, far = socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        raise InfrastructureError(f"the sandbox got no sockets: {error}") from error
    near.setblocking(False)
    return near, far


def _make_scratch(footing: Footing) -> Path:
    """A folder for the temporary files of executions, which they may pass but not list."""
    usual = Path(tempfile.gettempdir())
    parent = usual if footing.reaches(usual / "any") else Path("/tmp")  # noqa: S108 - mkdtemp makes it safe
    scratch = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    scratch.chmod(0o711)
    return scratch


def _spawn(footing: Footing, control: socket.socket, scratch: Path, marker: str) -> subprocess.Popen[bytes]:
    settings = {
        "control": control.fileno(),
        "daemon": os.getpid(),
        "scratch": str(scratch),
        "marker": marker,
        "uids": None if footing.uids is None else [footing.uids.start, len(footing.uids)],
    }
    return subprocess.Popen(  # noqa: S603 - our own code, by an interpreter that the operator chose
        [footing.python, "-I", "-B", "-c", _BOOTSTRAP, _HERE, orjson.dumps(settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=True,
        pass_fds=[control.fileno()],
        cwd="/",
        env={
            "PATH": f"{footing.python.parent}:{_PATH}",
            "LANG": "C.UTF-8",
            "CSO_SANDBOX": marker,
            # Each arena reserves 64 MiB, which the limit on memory counts: threads of the code would soon find none.
            "MALLOC_ARENA_MAX": "2",
        },
        start_new_session=True,
    )
