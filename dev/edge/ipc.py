"""The platform's end of the Vercel runtime's IPC socket: NUL-terminated JSON messages."""

import base64
import binascii
import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

type Listener = Callable[[str, dict[str, Any]], None]


class Channel:
    """Listens at `path` for one runtime and calls listener(type, payload) for each message."""

    def __init__(self, listener: Listener) -> None:
        # Under the temporary folder: the address of a UNIX socket may have 107 bytes at most.
        self._folder = tempfile.TemporaryDirectory(prefix="ipc-")
        self.path = Path(self._folder.name) / "ipc.sock"
        self._listener = listener
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.path))
        self._socket.listen(1)
        self._peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._read, name="ipc", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self._peer, _ = self._socket.accept()
            buffer = b""
            while received := self._peer.recv(1 << 16):
                *whole, buffer = (buffer + received).split(b"\0")
                for message in whole:
                    self._deliver(message)

    def _deliver(self, message: bytes) -> None:
        try:
            content = json.loads(message)
            self._listener(str(content["type"]), content.get("payload") or {})
        except (ValueError, KeyError, TypeError) as fault:
            self._listener("malformed", {"message": f"{fault}: {message[:200]!r}"})

    def close(self) -> None:
        """Once the runtime has ended: what it had sent is read first."""
        if self._peer is None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=2)
        for end in (self._peer, self._socket):
            if end is not None:
                end.close()
        self._folder.cleanup()


def decode_log(payload: dict[str, Any]) -> tuple[str, str, int]:
    """A `log` message's level, text and request id."""
    try:
        text = base64.b64decode(str(payload["message"])).decode(errors="replace")
    except (KeyError, binascii.Error):
        text = repr(payload)
    streams = {"stdout": "info", "stderr": "error"}
    level = payload.get("level") or streams.get(str(payload.get("stream")), "info")
    return str(level), text, int(payload.get("context", {}).get("requestId") or 0)
