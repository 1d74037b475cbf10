"""A wire to Postgres that is DELAY_S long, and counts how often it is crossed and back."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from dev.bench.functions.listener import Listener

_CHUNK_BYTES = 1 << 16


class Wire:
    """Forwards 127.0.0.1:`port` to the target; each turn of the session waits `delay_s`."""

    def __init__(self, target_port: int, delay_s: float) -> None:
        self._target_port = target_port
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._trips = 0
        self._listener = Listener(self._connect)
        self.port = self._listener.port

    @property
    def trips(self) -> int:
        """Round trips so far, those of opening a connection included."""
        with self._lock:
            return self._trips

    def close(self) -> None:
        self._listener.close()

    def _connect(self, near: socket.socket) -> None:
        far = socket.create_connection(("127.0.0.1", self._target_port))
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _Session(self, near, far).begin()

    def over(self, session: "_Session") -> bool:
        """Whether this was the last of its two ways."""
        with self._lock:
            session.ways -= 1
            return session.ways == 0

    def cross(self) -> None:
        with self._lock:
            self._trips += 1
        time.sleep(self._delay_s)


class _Session:
    """One connection: the client asks, the server answers, and so on."""

    def __init__(self, wire: Wire, near: socket.socket, far: socket.socket) -> None:
        self._wire, self._near, self._far = wire, near, far
        self._answered = True
        self.ways = 2

    def begin(self) -> None:
        for way in (self._ask, self._answer):
            threading.Thread(target=self._pump, args=(way,), daemon=True).start()

    def _pump(self, way: Callable[[], bool]) -> None:
        with contextlib.suppress(OSError):
            while way():
                pass
        for end in (self._near, self._far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if self._wire.over(self):
            self._near.close()
            self._far.close()

    def _ask(self) -> bool:
        data = self._near.recv(_CHUNK_BYTES)
        # A farewell (Terminate) is not answered, so nobody waits for it.
        if self._answered and data and data[:1] != b"X":
            self._answered = False
            self._wire.cross()
        self._far.sendall(data)
        return bool(data)

    def _answer(self) -> bool:
        data = self._far.recv(_CHUNK_BYTES)
        self._answered = True
        self._near.sendall(data)
        return bool(data)
