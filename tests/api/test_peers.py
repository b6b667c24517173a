"""On loopback people may ask without a token; code that runs in rollouts under user ids of its own may not."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
from typing import cast

import anyio
import pytest

from runtime.api.peers import peer_uid
from runtime.sandbox import code_uids
from runtime.sandbox.footing import find_footing
from tests.api.conftest import Server

ASK = """
import os, sys, urllib.error, urllib.request
os.setgroups([])
os.setresuid(*[int(sys.argv[1])] * 3)
try:
    print(urllib.request.urlopen(sys.argv[2], timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_owner_of_the_other_end_is_found_and_nobody_is_once_it_is_closed(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    accepted: asyncio.Queue[asyncio.Transport] = asyncio.Queue()

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait(cast("asyncio.Transport", writer.transport))

    try:
        server = await asyncio.start_server(accept, host, 0)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    async with server:
        with socket.create_connection(server.sockets[0].getsockname()[:2]) as client:
            assert client.family == family
            with anyio.fail_after(30):
                transport = await accepted.get()
            assert peer_uid(transport) == os.geteuid()
        assert peer_uid(transport) is None
        transport.close()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ConnectionError):
            peer_uid(transport)


@pytest.mark.skipif(code_uids() is None, reason="code runs as we do")
async def test_where_nobody_can_be_told_apart_for_want_of_descriptors_nobody_is_taken_for_code(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_transport: asyncio.Transport) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc/net/tcp")

    monkeypatch.setattr("runtime.api.guard.peer_uid", none_left)
    answer = await server.ask("GET", "/v1/daemon")
    assert (answer.status, answer.json["trouble"]) == (503, "descriptors")
    assert f"process {os.getpid()} has too few file descriptors" in answer.json["error"]


@pytest.mark.skipif(code_uids() is None, reason="code runs as we do")
async def test_code_of_rollouts_may_not_ask_and_other_users_may(server: Server) -> None:
    uids = code_uids()
    assert uids is not None

    async def ask_as(uid: int, path: str) -> str:
        command = [str(find_footing().python), "-c", ASK, str(uid), server.work.url + path]
        ended = await anyio.run_process(command, stderr=subprocess.STDOUT)
        return ended.stdout.decode().strip()

    assert await ask_as(uids[7], "/healthz") == "200"
    for path in ("/v1/daemon", "/metrics"):
        assert await ask_as(uids[7], path) == '403 {"error":"code of rollouts may not talk to the daemon"}'
        assert await ask_as(65534, path) == "200"
