"""Child processes that cannot outlive this one."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol

_LAUNCHER = Path(__file__).with_name("launcher.py")

# The kernel ties a child to the *thread* that made it: all are made by this one, which lives
# as long as the process, and not by the request threads that come and go.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdout: int | None = subprocess.DEVNULL,
    uid: int | None = None,
    on_parent_death: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program (absolute path first) in its own session; stderr joins stdout.

    uid: run as that user and group (only root may ask for it).
    """
    parent, number = str(os.getpid()), str(int(on_parent_death))
    prefix = [sys.executable, "-I", "-S", str(_LAUNCHER), parent, number]
    full = [*prefix, "-" if uid is None else str(uid), *map(str, command)]
    return _spawner.submit(
        lambda: subprocess.Popen(
            full,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ).result()


class Process(Protocol):
    """What Popen has, and a process of dev/edge/forked.py too."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


def stop(process: Process, how: signal.Signals, timeout_s: float = 10) -> None:
    """Ask a process to end and wait; kill it when it has not within `timeout_s`."""
    if process.poll() is None:
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def started_at(pid: int) -> str | None:
    """What tells this process from a later one of the same id; None when there is none."""
    try:
        # Field 22 of proc_pid_stat(5); the name in field 2 may hold spaces, never a last ")".
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    process = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return process.stdout.strip() or None
