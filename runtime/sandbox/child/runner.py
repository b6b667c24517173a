"""The runner: executes the code of one execution and tells the daemon how it ended.

By the time it runs, the process is confined and no longer trusted: whatever it says may be the code's own words. What
an execution costs is mostly page faults, so what can be made before the forks is (`prepare`), and the rest is frugal.
"""

from __future__ import annotations

import _thread
import atexit
import io
import os
import resource
import sys
import tempfile
import threading
from typing import Any, NoReturn

from . import forkhooks
from .channel import Channel, encode_frame
from .failure import FILE, describe_exception, describe_exit, remember_source

_READY = encode_frame({"ready": True})
_COMPLETED = encode_frame({"end": "completed", "error": None})


def prepare() -> None:
    """Make of the zygote's interpreter, which nothing else needs, what code finds at its start."""
    # Made over a pipe, which is what a runner has there.
    null, (reading, writing) = os.dup(1), os.pipe()
    os.dup2(writing, 1)
    # One object for both keeps what is printed in order, and lines reach the supervisor whatever happens next.
    output = io.TextIOWrapper(
        os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    os.dup2(null, 1)
    for descriptor in (null, reading, writing):
        os.close(descriptor)
    sys.stdout = sys.stderr = output
    sys.__dict__.update(__stdout__=output, __stderr__=output)
    sys.argv = [FILE]
    tempfile.tempdir = None
    # A module of a workspace may have the name of our package.
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
        del sys.modules[name]


def run(channel: Channel, namespace: dict[str, Any]) -> NoReturn:
    """Tell that there is a runner, execute what the daemon sends, tell the end, and end the process."""
    try:
        _run(channel, namespace)
    finally:
        os._exit(1)


def refuse(channel: Channel, problem: str) -> NoReturn:
    """Tell the daemon why the code was not run, and end the process."""
    try:
        channel.send(encode_frame({"problem": problem}))
    finally:
        os._exit(1)


def _run(channel: Channel, namespace: dict[str, Any]) -> NoReturn:
    owner = os.getpid()
    forkhooks.release()
    channel.own()
    channel.send(_READY)
    code = channel.receive().decode("utf-8", errors="surrogatepass")
    remember_source(code)
    end = _execute(code, namespace)
    _settle()
    # A fork that the code made may come by here too.
    if os.getpid() == owner and channel.usable:
        channel.send(end)
    os._exit(0)


def _execute(code: str, namespace: dict[str, Any]) -> bytes:
    """Run the code to its end; the message that tells of it."""
    try:
        exec(compile(code, FILE, "exec", dont_inherit=True), namespace)  # noqa: S102 - what this process is for
    except SystemExit as error:
        return _end("exited", describe_exit(error))
    except MemoryError as error:
        _use_reserve()
        return _end("memory", describe_exception(error))
    except BaseException as error:  # noqa: BLE001 - the border at which every error becomes a message
        return _end("exception", describe_exception(error))
    return _COMPLETED


def _end(ending: str, error: str | None) -> bytes:
    return encode_frame({"end": ending, "error": error})


def _use_reserve() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _settle() -> None:
    """What the interpreter does at its exit, without tearing itself down: wait for threads, call, flush."""
    try:
        if _thread._count():  # noqa: SLF001 - no public way to know of threads, or to wait for them
            threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001 - nor to run what was registered
    except BaseException:  # noqa: BLE001, S110 - what the interpreter would print at its exit has no reader here
        pass
    try:  # noqa: SIM105 - contextlib would copy more pages than the rest of this
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001, S110 - whatever the code has put there
        pass
