"""The function processes behind the router: started when first asked for, renewed on edits."""

import ast
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dev.edge import runtime
from dev.edge.runtime import Function
from dev.platform.logs import LogBuffer

WATCHED = ("api", "lib", "vercel.json")


class Pool:
    """At most one current process per function of the tree at `root`.

    environ() is asked at every start; max_duration_s(entrypoint) gives its limit; forks: see
    runtime.start_source.
    """

    def __init__(
        self,
        root: Path,
        environ: Callable[[], Mapping[str, str]],
        max_duration_s: Callable[[str], float],
        log: LogBuffer,
        *,
        forks: bool = False,
    ) -> None:
        self._root = root
        self._forks = forks
        self._environ = environ
        self._max_duration_s = max_duration_s
        self._log = log
        self._lock = threading.Lock()
        self._slots: dict[str, _Slot] = {}
        self._retired: list[Function] = []
        self._started: list[Function] = []
        self._closed = False

    def enter(self, entrypoint: str) -> Function:
        """The function's process, started if need be, with this request counted in."""
        with self._lock:
            slot = self._slots.setdefault(entrypoint, _Slot())
        with slot.lock:
            if self._closed:
                raise runtime.StartFailed(f"{entrypoint}: the platform is stopping")
            now = stamp(self._root)
            current = slot.function
            if current is None or not current.alive or slot.stamp != now:
                self._retire(current)
                slot.function = None
                slot.function = current = self.start(entrypoint, self._environ())
                slot.stamp = now
            current.enter()
            return current

    def start(self, entrypoint: str, environ: Mapping[str, str]) -> Function:
        """A process of its own, outside the pool: its caller closes it."""
        limit = self._max_duration_s(entrypoint)
        function = runtime.start_source(
            self._root, entrypoint, environ, self._log, limit, forks=self._forks
        )
        with self._lock:
            self._started = [*(old for old in self._started if old.alive), function]
        return function

    def is_idle(self) -> bool:
        """Whether no live process works: current, retired or of its own; after answers included."""
        with self._lock:
            started = list(self._started)
        return not any(function.in_flight and function.alive for function in started)

    def restart(self) -> None:
        """Every next request meets a new process; requests in flight finish on the old ones."""
        with self._lock:
            slots = list(self._slots.values())
        for slot in slots:
            with slot.lock:
                self._retire(slot.function)
                slot.function = None

    def running(self) -> list[dict[str, Any]]:
        """pid, cold start figures (milliseconds) and requests of every live process."""
        with self._lock:
            current = [slot.function for slot in self._slots.values()]
        return [
            {
                "name": function.name,
                "pid": function.pid,
                "port": function.port,
                "initDuration": function.init.get("initDuration"),
                "userInitDuration": function.init.get("userInitDuration"),
                "requests": function.requests,
                "in_flight": function.in_flight,
            }
            for function in current
            if function is not None and function.alive
        ]

    def close(self) -> None:
        """End every process at once."""
        self._closed = True
        with self._lock:
            current = [slot.function for slot in self._slots.values()]
            retired = list(self._retired)
        for function in [*current, *retired]:
            if function is not None:
                function.close()

    def _retire(self, function: Function | None) -> None:
        if function is None:
            return
        self._retired = [*(old for old in self._retired if old.alive), function]
        threading.Thread(target=_finish, args=(function,), daemon=True).start()


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.function: Function | None = None
        self.stamp = ""


def _finish(function: Function) -> None:
    if function.alive:
        function.wait_idle(function.max_duration_s)
    function.close()


def stamp(root: Path) -> str:
    """Changes whenever a watched file is added, removed or edited."""
    digest = hashlib.blake2b(digest_size=16)
    for name in WATCHED:
        for path, status in _files(root / name):
            digest.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Python and JSON files at or below `path`, in a fixed order."""
    if path.is_file():
        yield str(path), path.stat()
        return
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _files(Path(entry.path))
        elif not entry.name.endswith((".pyc", "~", ".swp")):
            try:
                yield entry.path, entry.stat()
            except FileNotFoundError:
                continue


def entrypoint_of(root: Path, path: str) -> str | None:
    """The file behind address `path` ("/api/health" -> "api/health.py"); None when there is none.

    As at Vercel, a file under api/ is a function when it has a top-level `app`.
    """
    parts = path.strip("/").split("/")
    hidden = any(part.startswith((".", "_")) for part in parts)
    if parts[0] != "api" or len(parts) < 2 or hidden or "\0" in path:
        return None
    file = root.joinpath(*parts).with_name(parts[-1] + ".py")
    try:
        status = file.stat()
    except OSError:
        return None
    if not _has_app(file, status.st_mtime_ns, status.st_size):
        return None
    return "/".join(parts) + ".py"


@functools.lru_cache(maxsize=256)
def _has_app(file: Path, _mtime_ns: int, _size: int) -> bool:
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        # Left to the runtime, whose report of the fault is the one production would give.
        return True
    return any("app" in _bound(node) for node in body)


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}
