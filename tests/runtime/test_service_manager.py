"""sd_notify: a manager hears everything that it must hear, in order, and a missing one holds nothing up."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest
import structlog

from runtime.service_manager import ServiceManager

DEADLINE_S = 20


def listener_at(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(f"\0{address[1:]}" if address.startswith("@") else address)
    listener.setblocking(False)
    return listener


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_manager_is_reached_by_path_and_by_abstract_address(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "s") if kind == "path" else f"@cso-test-{os.getpid()}"
    with listener_at(address) as listener:
        ServiceManager({"NOTIFY_SOCKET": address}).ready("two\nlines")
        assert listener.recv(4096).decode() == f"READY=1\nMAINPID={os.getpid()}\nSTATUS=two lines"


def test_without_a_manager_nothing_is_said_and_a_lost_one_is_told_of_once(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as said:
        ServiceManager({}).ready("")
        lost = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
        lost.ready("")
        lost.stopping(3.0)
    assert [entry["event"] for entry in said] == ["the service manager cannot be reached"]


async def test_what_must_arrive_is_sent_again_when_the_manager_is_busy(tmp_path: Path) -> None:
    address = str(tmp_path / "s")
    with listener_at(address) as listener:
        manager = ServiceManager({"NOTIFY_SOCKET": address})
        most = 100_000
        for number in range(most):
            manager.reloading() if number % 2 else manager.ready(str(number))
            if len(manager._outbox) > 3:
                break
        manager.stopping(3.0)
        assert manager._outbox, "the manager's queue never filled"
        heard: list[str] = []
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(manager.keep_alive, lambda: "well")
                while not (heard and "STATUS=well" in heard[-1]):
                    await anyio.wait_readable(listener)
                    heard.append(listener.recv(4096).decode())
                tasks.cancel_scope.cancel()
    kinds = [text.partition("=")[0] for text in heard]
    assert kinds == [("READY", "RELOADING")[place % 2] for place in range(len(heard) - 2)] + ["STOPPING", "STATUS"]


async def test_the_last_words_arrive_at_a_manager_that_is_busy_and_are_not_waited_for_for_ever(
    tmp_path: Path,
) -> None:
    address = str(tmp_path / "s")
    with listener_at(address) as listener, anyio.fail_after(DEADLINE_S):
        manager = ServiceManager({"NOTIFY_SOCKET": address})
        while not manager._outbox:
            manager.ready("")
        await manager.finish()
        assert manager._outbox
        manager.stopping(3.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manager.finish)
            while not listener.recv(4096).startswith(b"STOPPING=1"):
                await anyio.wait_readable(listener)
        assert not manager._outbox


@pytest.mark.parametrize(
    ("environ", "is_alive"),
    [
        ({"WATCHDOG_USEC": "1000"}, True),
        ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
async def test_signs_of_life_are_given_where_they_are_waited_for(
    tmp_path: Path, environ: dict[str, str], is_alive: bool
) -> None:
    address = str(tmp_path / "s")
    with listener_at(address) as listener, anyio.fail_after(DEADLINE_S):
        manager = ServiceManager({"NOTIFY_SOCKET": address, **environ})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manager.keep_alive, lambda: "well")
            for _ in range(3 if is_alive else 1):
                await anyio.wait_readable(listener)
                assert listener.recv(4096).decode() == ("WATCHDOG=1\n" if is_alive else "") + "STATUS=well"
            tasks.cancel_scope.cancel()
