"""Ports of 127.0.0.1."""

import socket

from dev.edge.http_server import HOST

DEFAULT_SITE_PORT = 3000
_TRIED = 100


def free() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def first_free(first: int = DEFAULT_SITE_PORT) -> int:
    """`first`, or the next one that is free; OSError when none of a hundred is."""
    for port in range(first, min(first + _TRIED, 65_536)):
        if is_free(port):
            return port
    raise OSError(f"no free port from {first} to {first + _TRIED - 1}")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server will: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
