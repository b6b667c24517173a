"""Whose process is at the other end of a connection on this machine, as the kernel's table of sockets has it.

On loopback whoever is on the machine may ask a daemon that has no token; but code of rollouts is on the machine, too.
"""

from __future__ import annotations

import socket
from asyncio import Transport
from ipaddress import ip_address
from pathlib import Path

from store.trouble import lacks_descriptors

_TABLES = {socket.AF_INET: Path("/proc/net/tcp"), socket.AF_INET6: Path("/proc/net/tcp6")}
# Columns of a row, behind its number: see proc_net_tcp of the kernel's documentation.
_LOCAL, _REMOTE, _UID, _INODE = 1, 2, 7, 9


def peer_uid(transport: Transport) -> int | None:
    """The user id of the process that holds the other end; None where none does any more, or that cannot be known.

    Raises:
        ConnectionError: the connection has been closed here.
        OSError: there is no file descriptor left to find out with.
    """
    connection = transport.get_extra_info("socket")
    table = _TABLES.get(connection.family)
    if table is None:
        return None
    try:
        ours, theirs = _written(connection.getsockname()), _written(connection.getpeername())
    except OSError as error:
        raise ConnectionAbortedError("the connection has been closed") from error
    try:
        rows = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError as error:
        if lacks_descriptors(error):
            raise
        return None
    for row in rows:
        if theirs in row:
            columns = row.split()
            # An end that was closed while its request was under way is nobody's, and shows as root's.
            if (columns[_LOCAL], columns[_REMOTE]) == (theirs, ours) and columns[_INODE] != "0":
                return int(columns[_UID])
    return None


def _written(address: tuple[str, int]) -> str:
    """An address as the table has it: words of four bytes in the machine's order, and the port."""
    packed = ip_address(address[0].partition("%")[0]).packed
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, 'little'):08X}" for word in words) + f":{address[1]:04X}"
