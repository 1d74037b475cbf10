"""A server of one test, which talks as the test says."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

type Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(talk: Talk, context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[int]]]:
    """A port, and the connections so far; `talk` has each to itself."""
    seen: list[int] = []

    def serve(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            if context is None:
                talk(plain)
                return
            with context.wrap_socket(plain, server_side=True) as secured:
                talk(secured)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                plain.settimeout(5)
                seen.append(len(seen))
                threading.Thread(target=serve, args=(plain,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], seen
        listener.shutdown(socket.SHUT_RDWR)
