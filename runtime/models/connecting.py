"""Why no connection came about, or why one broke, in words for people, with what to check."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence

from store.trouble import lacks_descriptors

# By name: errors of an SDK's HTTP client are not those of its transport, and none need be imported for it.
_WORDS = {
    "ServerDisconnectedError": "the server closed it",
    "ConnectionResetError": "the server reset it",
    "ClientConnectionResetError": "the server reset it",
    "BrokenPipeError": "the server reset it",
    "ClientPayloadError": "the reply broke off",
    "IncompleteReadError": "the reply broke off",
    "BadStatusLine": "what came is not HTTP",
    "BadHttpMessage": "what came is not HTTP",
}


def why_unreached(causes: Sequence[BaseException]) -> tuple[str, str] | None:
    """Why a server was not reached and what to check; None if there was a connection.

    Args:
        causes: an error and what it came from, the outermost first.
    """
    names = {type(cause).__name__ for cause in causes}
    if any("ProxyConnection" in name for name in names):
        return "the proxy does not answer", "check the proxy that the environment names (HTTPS_PROXY, ALL_PROXY, …)"
    if "ConnectionTimeoutError" in names:
        return "no connection in time", "check host, port and firewall"
    for cause in reversed(causes):
        if isinstance(cause, socket.gaierror | UnicodeError):
            return "there is no such host", "check the host in base_url, and name resolution"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused", "start the server there, or correct host and port in base_url"
        if isinstance(cause, ssl.SSLCertVerificationError):
            step = "name the certificate's authority in SSL_CERT_FILE, or use the name that it is for"
            said = getattr(cause, "verify_message", "")  # which aiohttp's own has not
            return "its certificate is not trusted" + (f": {said}" if said else ""), step
    if not any("Connector" in name or "EndpointConnection" in name for name in names):
        return None
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "it does not speak TLS", "begin base_url with http://, or correct the port"
    if any(isinstance(cause, ConnectionResetError) for cause in causes):
        return "the server ends the connection at once", "check port and scheme (http or https) in base_url"
    if lacks_descriptors(causes[0]):
        return "this process has too few file descriptors", "raise its limit (ulimit -n), or lower run.rollouts"
    return _system_says(causes) or "no connection", "check the network, and host and port in base_url"


def why_broken(causes: Sequence[BaseException]) -> str:
    """Why a connection that there was broke; of the known reasons the innermost."""
    for cause in reversed(causes):
        for kind in type(cause).__mro__:
            if kind.__name__ in _WORDS:
                return _WORDS[kind.__name__]
    return _system_says(causes) or type(causes[-1]).__name__


def _system_says(causes: Sequence[BaseException]) -> str:
    """What an error of the operating system means, empty where there is none."""
    numbers = (cause.errno or 0 for cause in causes if isinstance(cause, OSError))
    said = next(
        (os.strerror(number) for number in numbers if number > 0), ""
    )  # those of name resolution are negative
    return said[:1].lower() + said[1:]
