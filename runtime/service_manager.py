"""Talking to the service manager that started us: the datagrams of sd_notify, without its library.

Says when the daemon is ready, what it is doing, that it is alive and that it stops. Where no manager listens,
nothing is said. Sending never holds anything up: what must arrive and finds the manager's queue full is sent again.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping

import anyio

from runtime.logs import get_logger

_AGAIN_S = 0.05
_FINISH_S = 1.0
_QUIET_S = 5.0  # between two words about what we do, or less where a sign of life is due more often
_log = get_logger("service_manager")


class ServiceManager:
    """The service manager named by the environment, if there is one.

    Args:
        environ: NOTIFY_SOCKET is a path, or with a leading @ an abstract address; WATCHDOG_USEC is how often a sign
            of life is due at least, in microseconds, for the process WATCHDOG_PID or, where that is not set, for us.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        interval = _watchdog_interval(environ)
        self._sign = "" if interval is None else "WATCHDOG=1\n"
        self._pause = _QUIET_S if interval is None else min(_QUIET_S, interval / 2)
        self._outbox: deque[str] = deque()
        self._is_left = anyio.Event()  # something is, in the outbox
        self._complained = False

    def ready(self, status: str) -> None:
        """Startup is done."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={_line(status)}")

    def stopping(self, within: float) -> None:
        """Stopping has begun and takes up to `within` seconds."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within * 1e6)}\nSTATUS=stopping")

    def reloading(self) -> None:
        """The configuration is being read anew; `ready` must follow."""
        # Type=notify-reload wants to know when, on the clock that counts from boot.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    async def keep_alive(self, describe: Callable[[], str]) -> None:
        """Give signs of life, with a word about what we do, until cancelled.

        They come from the event loop itself, so that they end when it is stuck.
        """
        while True:
            await self._empty()
            self._is_taken(f"{self._sign}STATUS={_line(describe())}")
            self._is_left = anyio.Event()
            with anyio.move_on_after(self._pause):
                await self._is_left.wait()

    async def finish(self) -> None:
        """Have what was said last arrive, if the manager takes it within a second."""
        with anyio.move_on_after(_FINISH_S, shield=True):
            await self._empty()

    async def _empty(self) -> None:
        self._flush()
        while self._outbox:
            await anyio.sleep(_AGAIN_S)
            self._flush()

    def _send(self, message: str) -> None:
        """Send what must arrive, in order; `keep_alive` sends what could not be sent."""
        self._outbox.append(message)
        self._flush()
        if self._outbox:
            self._is_left.set()

    def _flush(self) -> None:
        while self._outbox and self._is_taken(self._outbox[0]):
            self._outbox.popleft()

    def _is_taken(self, message: str) -> bool:
        """Try to send; False where it may be tried again."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
                out.sendto(message.encode(), self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            if not self._complained:
                self._complained = True
                _log.warning("the service manager cannot be reached", error=str(error))
        return True


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Seconds within which a sign of life is due; None if nobody waits for one of ours."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6


def _line(text: str) -> str:
    return " ".join(text.split())
