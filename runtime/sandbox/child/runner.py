"""The runner: executes the code of one execution and tells the daemon how it ended.

By the time it runs, the process is confined and no longer trusted: whatever it says may be the code's own words.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import resource
import socket
import sys
import tempfile
import threading
import types
from typing import Any, NoReturn

from .channel import Channel
from .failure import FILE, describe_exception, describe_exit, remember_source
from .tools import install_tools

# Looking through all modules for ours would copy a page for each.
_MODULES = "channel confinement failure identity job kernel kin output runner supervisor tools tree zygote"


def run(connection: socket.socket, workspace: str) -> NoReturn:
    """Execute what the daemon sends, tell the end, and end the process."""
    channel = Channel(connection)
    owner = os.getpid()
    program = channel.receive()
    namespace = _prepare(program, channel, workspace)
    channel.send({"begin": True})
    end = _execute(program["code"], namespace)
    _settle()
    # A fork that the code made may come by here too.
    if os.getpid() == owner and channel.usable:
        with contextlib.suppress(OSError):
            channel.send(end)
    os._exit(0)


def refuse(connection: socket.socket, problem: str) -> NoReturn:
    """Tell the daemon why the code was not run, and end the process."""
    Channel(connection).send({"problem": problem})
    os._exit(1)


def _prepare(program: dict[str, Any], channel: Channel, workspace: str) -> dict[str, Any]:
    # One object for both keeps what is printed in order, and lines reach the supervisor whatever happens next.
    output = io.TextIOWrapper(
        os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    sys.stdout = sys.stderr = output
    sys.__dict__.update(__stdout__=output, __stderr__=output)
    sys.argv = [FILE]
    sys.path.insert(0, workspace)
    tempfile.tempdir = None
    # A module of the workspace may have the name of our package.
    sys.modules.pop(str(__package__), None)
    for name in _MODULES.split():
        sys.modules.pop(f"{__package__}.{name}", None)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    vars(main).update(install_tools(channel, program["tools"]))
    remember_source(program["code"])
    return vars(main)


def _execute(code: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run the code to its end; the message that tells of it."""
    try:
        exec(compile(code, FILE, "exec", dont_inherit=True), namespace)  # noqa: S102 - what this process is for
    except SystemExit as error:
        return {"end": "exited", "error": describe_exit(error)}
    except MemoryError as error:
        _use_reserve()
        return {"end": "memory", "error": describe_exception(error)}
    except BaseException as error:  # noqa: BLE001 - the border at which every error becomes a message
        return {"end": "exception", "error": describe_exception(error)}
    return {"end": "completed", "error": None}


def _use_reserve() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _settle() -> None:
    """What the interpreter does at its exit, without tearing itself down: wait for threads, call, flush."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - no public way to wait for threads
        atexit._run_exitfuncs()  # noqa: SLF001 - nor to run what was registered
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
