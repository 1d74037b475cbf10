"""`.dev/state.json`: what runs, and where. Written once all is up, removed at the end."""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dev.platform import processes
from dev.platform.local_secrets import write_private

_STOP_TIMEOUT_S = 40.0


class Busy(RuntimeError):
    """A platform already runs on this data folder."""


class State:
    """The state file and the lock of one data folder."""

    def __init__(self, data: Path) -> None:
        self._file = data / "state.json"
        self._lock_file = data / "platform.lock"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder: Busy when another process does. The kernel frees it if we die."""
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_file.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as fault:
                raise Busy from fault
            # What a killed run left behind is nobody's.
            self._file.unlink(missing_ok=True)
            try:
                yield
            finally:
                self._file.unlink(missing_ok=True)

    def write(self, state: dict[str, Any]) -> None:
        pid = os.getpid()
        marked = {**state, "pid": pid, "process_started": processes.started_at(pid)}
        write_private(self._file, json.dumps(marked, indent=2) + "\n")

    def read(self) -> dict[str, Any] | None:
        """What runs; None when nothing does (a file left by a dead process counts as nothing)."""
        try:
            state: dict[str, Any] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        alive = processes.started_at(int(state["pid"])) == state["process_started"]
        return state if alive else None

    def stop(self) -> bool:
        """Stop what runs and wait for its end; False when nothing does.

        TimeoutError when it is still there after 40 s.
        """
        state = self.read()
        if state is None:
            return False
        pid = int(state["pid"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while processes.started_at(pid) == state["process_started"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {pid} has not stopped")
            time.sleep(0.05)
        return True
