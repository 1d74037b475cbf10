"""Callers of one function, in a process of their own (`main`).

Reads a LoadSpec on stdin, writes a LoadResult on stdout, both as JSON. A caller keeps its
connection where the server lets it, as a platform's proxy does, and is done with an answer once it
has the body.
"""

import json
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

NUMBER, ADDRESS = b"@NUMBER@", b"@ADDRESS@"


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """request: bytes as text; @NUMBER@ (8 digits) and @ADDRESS@ are new in each one."""

    port: int
    connections: int
    seconds: float
    request: str
    first: int = 0
    most: int = 1_000_000


@dataclass(slots=True)
class LoadResult:
    """latencies_ms of what was answered as asked; failed: everything else."""

    latencies_ms: list[float] = field(default_factory=list)
    failed: int = 0
    took_s: float = 0.0
    last: str = ""


def fill(request: bytes, number: int) -> bytes:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}".encode()
    return request.replace(NUMBER, b"%08d" % number).replace(ADDRESS, address)


class Caller:
    """One connection's worth of requests, one after another."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body. OSError or ValueError when there is none."""
        reused = self._socket is not None
        try:
            return self._exchange(request)
        except (OSError, ValueError):
            self.close()
            if not reused:
                raise
        return self._exchange(request)  # the connection had been closed meanwhile

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        head, _, body = self._until_head().partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        status = int(lines[0][9:12])
        fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
        length = 0 if status in (204, 304) else int(fields[b"content-length"])
        while len(body) < length:
            if not (more := self._socket.recv(1 << 16)):
                raise ValueError("cut off")
            body += more
        default = b"close" if lines[0].startswith(b"http/1.0") else b"keep-alive"
        if fields.get(b"connection", default) == b"close":
            self.close()
        return status, body

    def _until_head(self) -> bytes:
        assert self._socket is not None
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := self._socket.recv(1 << 16)):
                raise ValueError("no answer")
            data += more
        return data


def run(spec: LoadSpec) -> LoadResult:
    result, lock = LoadResult(), threading.Lock()
    numbers = iter(range(spec.first, spec.first + spec.most))
    template = spec.request.encode("latin-1")
    started = time.perf_counter()
    end = started + spec.seconds

    def call() -> None:
        caller = Caller(spec.port)
        mine: list[float] = []
        while (now := time.perf_counter()) < end:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            request = fill(template, number)
            now = time.perf_counter()
            try:
                status, body = caller.ask(request)
            except (OSError, ValueError) as fault:
                status, body = 0, repr(fault).encode()
            took_ms = (time.perf_counter() - now) * 1000
            if status in (200, 204, 304):
                mine.append(took_ms)
                continue
            with lock:
                result.failed += 1
                result.last = f"{status} {body[:200].decode(errors='replace')}"
        caller.close()
        with lock:
            result.latencies_ms += mine

    threads = [threading.Thread(target=call) for _ in range(spec.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.took_s = time.perf_counter() - started
    return result


def main() -> None:
    sys.setswitchinterval(0.0005)
    for line in sys.stdin:
        print(json.dumps(asdict(run(LoadSpec(**json.loads(line))))), flush=True)
