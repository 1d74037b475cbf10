"""A process forked from a warm interpreter: what `subprocess.Popen` is for one made by exec.

One fork server serves all functions of this process, from the first start until it ends.
"""

import atexit
import contextlib
import functools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from dev.edge.fork_server import MOST_BYTES
from dev.platform import processes

_START_TIMEOUT_S = 60.0
_lock = threading.Lock()


class ForkServerEnded(RuntimeError):
    """The interpreter that forks has ended, or says nothing."""


def start(code: str, *, cwd: Path, environ: Mapping[str, str]) -> "ForkedProcess":
    """A process of its own that runs `code` as `python -s -c` would. ForkServerEnded."""
    with _lock:
        server = _server()
        if not server.alive:
            _server.cache_clear()
            server = _server()
        return server.start({"code": code, "cwd": str(cwd), "environ": dict(environ)})


class ForkedProcess:
    """The part of Popen that a function needs; its parent is the fork server, which reaps it."""

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdout = stdout
        self._ended = threading.Event()
        self._status = 0

    def end(self, status: int) -> None:
        """The server says that it has ended."""
        self._status = status
        self._ended.set()

    def poll(self) -> int | None:
        return self._status if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a forked function", timeout or 0)
        return self._status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _ForkServer:
    """One start at a time, by the lock above; ends are heard of at any time."""

    def __init__(self) -> None:
        self._live: dict[int, ForkedProcess] = {}
        self._starts: queue.SimpleQueue[ForkedProcess | None] = queue.SimpleQueue()
        self._output = -1
        program = Path(__file__).with_name("fork_server.py")
        with (
            tempfile.TemporaryDirectory(prefix="fork-") as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        ):
            path = Path(folder) / "owner.sock"
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(_START_TIMEOUT_S)
            self._process = processes.spawn(
                [sys.executable, "-s", "-B", program, path], env=_environment(), cwd=Path("/")
            )
            self._socket, _ = listener.accept()
        self._socket.settimeout(None)
        threading.Thread(target=self._read, name="fork-server", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self, job: dict[str, object]) -> ForkedProcess:
        self._output, theirs = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(job).encode()], [theirs])
            process = self._starts.get(timeout=_START_TIMEOUT_S)
        except (OSError, queue.Empty) as fault:
            os.close(self._output)
            raise ForkServerEnded(str(fault)) from fault
        finally:
            os.close(theirs)
        if process is None:
            os.close(self._output)
            raise ForkServerEnded("it ended before it had forked")
        return process

    def close(self) -> None:
        """Its functions end with it."""
        processes.stop(self._process, signal.SIGKILL)

    def _read(self) -> None:
        while message := self._receive():
            report = json.loads(message)
            if "started" in report:
                process = ForkedProcess(report["started"], os.fdopen(self._output, "rb"))
                self._live[process.pid] = process
                self._starts.put(process)
            else:
                self._live.pop(report["ended"]).end(report["status"])
        self._socket.close()
        self._starts.put(None)
        for process in self._live.values():  # they were killed with their parent
            process.end(-signal.SIGKILL)

    def _receive(self) -> bytes:
        with contextlib.suppress(OSError):
            return self._socket.recv(MOST_BYTES)
        return b""


@functools.cache
def _server() -> _ForkServer:
    server = _ForkServer()
    atexit.register(server.close)
    return server


def _environment() -> dict[str, str]:
    """A forked interpreter has its own; this is what interpreters read at their start."""
    return {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "TZ": ":UTC"}
