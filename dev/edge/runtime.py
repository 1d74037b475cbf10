"""One function in Vercel's own Python runtime, driven over its IPC socket as production does.

`start_source` runs a file of this tree with this interpreter's packages; `start_built` runs a
directory made by `vercel build` with its vendored packages alone.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from dev.edge import forked, ipc
from dev.platform import processes
from dev.platform.logs import LogBuffer

START_TIMEOUT_S = 30.0
_DYING_S = 0.02

# What the built handler does before it hands over, less the vendored folder: the script's own
# directory is the function's root, and the boot stamp is where `initDuration` starts.
_BOOT = """
import os, sys, time
os.environ["__VC_PY_BOOT_START_MS"] = str(int(time.monotonic() * 1000))
sys.path[0] = os.getcwd()
import vercel_runtime.vc_init
"""


class StartFailed(RuntimeError):
    """The function's process ended, or said nothing, before it served; the text says why."""


class Function:
    """A running function process.

    name: its address without the leading slash ("api/health"); url: where it answers, set by
    whoever puts a router in front; init: the `server-started`
    payload (httpPort, initDuration, userInitDuration: milliseconds).
    """

    def __init__(
        self,
        name: str,
        start: Callable[[dict[str, str]], processes.Process],
        *,
        environ: Mapping[str, str],
        log: LogBuffer,
        max_duration_s: float = 300.0,
        cleanup: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.url = ""
        self.max_duration_s = max_duration_s
        self.requests = 0
        self.init: dict[str, Any] = {}
        self._log = log
        self._cleanup = cleanup
        self._fatal: list[str] = []
        self._condemned = False
        self._known = threading.Event()
        self._idle = threading.Condition()
        self._in_flight = 0
        self._closing = threading.Lock()
        self._channel = ipc.Channel(self._hear)
        self.process = start({**environ, "VERCEL_IPC_PATH": str(self._channel.path)})
        self.pid = self.process.pid
        self._output = threading.Thread(target=self._drain, name=f"output-{name}", daemon=True)
        self._output.start()
        self._await_start()

    @property
    def port(self) -> int:
        return int(self.init["httpPort"])

    @property
    def alive(self) -> bool:
        return not self._condemned and self.process.poll() is None

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def enter(self) -> None:
        """Count a request in; leave() counts it out when its work is over."""
        with self._idle:
            self._in_flight += 1
            self.requests += 1

    def leave(self) -> None:
        with self._idle:
            self._in_flight -= 1
            self._idle.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no request is in flight; False when some still are at the end."""
        with self._idle:
            return self._idle.wait_for(lambda: self._in_flight <= 0, timeout_s)

    def logs(self) -> list[dict[str, Any]]:
        return self._log.since(0, self.name)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal (SIGSTOP and SIGCONT freeze and thaw as the platform does)."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)

    def condemn(self) -> None:
        """Kill it, and count it as dead from this moment on."""
        self._condemned = True
        self.kill()

    def settle(self) -> None:
        """After a broken answer: let a dying process be seen as dead by the next request."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_DYING_S)

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status; subprocess.TimeoutExpired when it is still running."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End the process at once and forget its files; may be called again."""
        with self._closing:
            processes.stop(self.process, signal.SIGTERM, timeout_s=2)
            self._channel.close()
            self._cleanup()
            self._cleanup = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_start(self) -> None:
        started = self._known.wait(START_TIMEOUT_S)
        if started and self.init:
            return
        self.kill()
        self._output.join(timeout=2)
        self.close()
        reason = "\n".join(self._fatal) or "it ended, or said nothing, before it was ready"
        raise StartFailed(f"{self.name} did not start: {reason}")

    def _hear(self, kind: str, payload: dict[str, Any]) -> None:
        if kind == "server-started":
            self.init = payload
            self._known.set()
        elif kind == "log":
            level, text, request_id = ipc.decode_log(payload)
            self._log.add(self.name, level, text, request_id)
        elif kind in ("unrecoverable-error", "malformed"):
            self._fatal.append(str(payload.get("message")))

    def _drain(self) -> None:
        """What reaches the bare stdout and stderr: start-up faults, mostly."""
        stream = self.process.stdout
        if stream is not None:
            with contextlib.suppress(ValueError, OSError):
                for line in stream:
                    self._log.add(self.name, "error", line.decode(errors="replace"))
        # The pipe closes with the process: whoever still waits for its start need not.
        self._known.set()


def start_source(
    root: Path,
    entrypoint: str,
    environ: Mapping[str, str],
    log: LogBuffer,
    max_duration_s: float,
    *,
    forks: bool = False,
) -> Function:
    """Start `entrypoint` ("api/health.py") of the tree at `root`. StartFailed when it cannot.

    forks: from an interpreter that has libraries imported already, where the system can: a start
    takes a quarter of the time.
    """
    name = entrypoint.removesuffix(".py")
    handler = {
        "__VC_HANDLER_MODULE_NAME": name.replace("/", "."),
        "__VC_HANDLER_ENTRYPOINT": entrypoint,
        "__VC_HANDLER_ENTRYPOINT_ABS": str(root / entrypoint),
        "__VC_HANDLER_VENDOR_DIR": "_vendor",
        "__VC_HANDLER_VARIABLE_NAME": "app",
        # As in production; and bytecode written within the second of an edit would hide it.
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def start(environ: dict[str, str]) -> processes.Process:
        if forks and sys.platform == "linux":
            return forked.start(_BOOT, cwd=root, environ=environ)
        return _spawn([sys.executable, "-s", "-c", _BOOT], root, environ)

    return Function(
        name,
        start,
        environ={**base_environment(), **environ, **handler},
        log=log,
        max_duration_s=max_duration_s,
    )


def start_built(
    func_dir: Path, project_dir: Path, environ: Mapping[str, str], log: LogBuffer | None = None
) -> Function:
    """Start a `*.func` directory of `vercel build`, put together as it is deployed.

    project_dir: where the build ran (its file map points there). Only the vendored packages and
    the bundle's own files can be imported. StartFailed when it cannot.
    """
    folder = Path(tempfile.mkdtemp(prefix="function-"))
    config = unpack(func_dir, project_dir, folder)
    parts = func_dir.with_suffix("").parts
    name = "/".join(parts[parts.index("functions") + 1 :]) if "functions" in parts else parts[-1]
    return Function(
        name,
        functools.partial(_spawn, built_command(config), folder),
        environ={**base_environment(), **config.get("environment", {}), **environ},
        log=log or LogBuffer(),
        max_duration_s=float(config.get("maxDuration", 300)),
        cleanup=lambda: shutil.rmtree(folder, ignore_errors=True),
    )


def _spawn(command: list[str], cwd: Path, environ: dict[str, str]) -> processes.Process:
    return processes.spawn(command, cwd=cwd, env=environ, stdout=subprocess.PIPE)


def unpack(func_dir: Path, project_dir: Path, folder: Path) -> dict[str, Any]:
    """Put a built function together in `folder`, as it is deployed; its configuration.

    No path leads back to the project. Where the file system can, its files are hard links to the
    project's: as in a deployment, nothing may be written to them.
    """
    config = config_of(func_dir)
    shutil.copytree(func_dir, folder, dirs_exist_ok=True)
    paths = {folder / inside: project_dir / outside
             for inside, outside in config.get("filePathMap", {}).items()}  # fmt: skip
    for parent in {target.parent for target in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for target, source in paths.items():
        try:
            os.link(source.resolve(), target)
        except OSError:
            shutil.copy2(source, target)
    return config


def config_of(func_dir: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((func_dir / ".vc-config.json").read_text())
    return config


def built_command(config: Mapping[str, Any]) -> list[str]:
    """What starts an unpacked function, in its folder."""
    handler = config["handler"].rsplit(".", 1)[0] + ".py"
    # -S: the interpreter's own site-packages are no part of the bundle.
    return [_bare_interpreter(), "-s", "-S", handler]


def base_environment() -> dict[str, str]:
    """What every process has, and nothing of the developer's own."""
    inherited = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return {
        **{name: os.environ[name] for name in inherited if name in os.environ},
        "LANG": "C.UTF-8",
        "TZ": ":UTC",
    }


def _bare_interpreter() -> str:
    """The CPython behind this virtual environment, whose packages it does not see."""
    base = getattr(sys, "_base_executable", sys.executable)
    return str(Path(base).resolve())
