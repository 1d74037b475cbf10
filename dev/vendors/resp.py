"""Valkey's wire protocol, version 2: raw replies, and errors with the prefixes they came with."""

import contextlib
import queue
import socket
from collections.abc import Iterator, Sequence
from typing import IO

type Reply = bytes | int | Failure | Status | list[Reply] | None


class Failure(str):
    """An error reply ("ERR unknown command", "WRONGTYPE …")."""

    __slots__ = ()


class Status(str):
    """A simple string reply ("OK", "PONG")."""

    __slots__ = ()


class Lost(ConnectionError):
    """The server closed the connection."""


class Connection:
    """One connection; OSError (Lost among them) when the server is gone."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream: IO[bytes] = self._socket.makefile("rb")

    def run(self, commands: Sequence[Sequence[bytes]]) -> list[Reply]:
        """Send all commands at once and read as many replies."""
        self._socket.sendall(b"".join(_encoded(command) for command in commands))
        return [self._read() for _ in commands]

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def _read(self) -> Reply:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise Lost("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return Status(rest.decode())
        if kind == b"-":
            return Failure(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        length = int(rest)
        if length < 0:
            return None
        if kind == b"*":
            return [self._read() for _ in range(length)]
        text = self._stream.read(length + 2)
        if len(text) < length + 2:
            raise Lost("the server closed the connection")
        return text[:-2]


class Connections:
    """Idle connections, kept for reuse; one request has one to itself."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Connection]:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = Connection(self._port)
        try:
            yield connection
        except BaseException:
            # Half-read replies would answer somebody else's command.
            connection.close()
            raise
        self._idle.put(connection)

    def close(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


def _encoded(command: Sequence[bytes]) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    parts += [b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in command]
    return b"".join(parts)
