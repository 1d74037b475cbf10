"""One process of a built function: started, asked, watched, ended.

Started directly, without the launcher that ties the platform's processes to their parent: its
own start would be counted with every one of them.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dev.bench.functions.builds import Built
from dev.edge import ipc, runtime

START_TIMEOUT_S = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Instance:
    """started_at: time.perf_counter() just before the process was made."""

    def __init__(self, built: Built, environ: Mapping[str, str]) -> None:
        self.init: dict[str, Any] = {}
        self._known = threading.Event()
        self._in_flight = 0
        self._channel = ipc.Channel(self._hear) if built.is_python else None
        given = {**runtime.base_environment(), **built.environment, **environ}
        if self._channel is not None:
            given["VERCEL_IPC_PATH"] = str(self._channel.path)
        self.started_at = time.perf_counter()
        self.process = subprocess.Popen(
            built.command,
            cwd=built.folder,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if self._channel is None else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if self._channel is None else subprocess.DEVNULL,
        )
        try:
            self.port = self._await_port()
        except BaseException:
            self.close()
            raise

    @property
    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    @property
    def cpu_ms(self) -> float:
        """Of the whole process since its start; the system counts in steps of 10 ms."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) * 1000 / _TICKS

    def settle(self, timeout_s: float = 10.0) -> None:
        """Wait until the work after the answers is over."""
        end = time.monotonic() + timeout_s
        while self._in_flight > 0 and time.monotonic() < end:
            time.sleep(0.005)

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self._channel is not None:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_port(self) -> int:
        if self._channel is None:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            if not line.strip().isdigit():
                raise runtime.StartFailed((line + self.process.stdout.read()).decode())
            return int(line)
        if not self._known.wait(START_TIMEOUT_S) or "httpPort" not in self.init:
            raise runtime.StartFailed(str(self.init))
        return int(self.init["httpPort"])

    def _hear(self, kind: str, payload: dict[str, Any]) -> None:
        if kind in ("server-started", "unrecoverable-error"):
            self.init = payload
            self._known.set()
        elif kind == "handler-started":
            self._in_flight += 1
        elif kind == "end":
            self._in_flight -= 1
