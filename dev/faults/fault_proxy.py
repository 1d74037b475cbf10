"""A TCP proxy whose wire can be cut, silenced or garbled: the network on its bad days.

It stands between a function and a server on this machine, knows nothing of either's protocol,
and is switched from Python or, like the stand-ins, over HTTP at `/_control`.
"""

import contextlib
import socket
import struct
import threading
from collections import Counter
from dataclasses import asdict
from typing import Any

from dev.edge.http_server import HOST, Request, Response, Server, as_json
from dev.faults.network import NetworkFault
from dev.vendors.fault_switch import InvalidFault

_CHUNK_BYTES = 1 << 16
_NO_LINGER = struct.pack("ii", 1, 0)
_NOISE = b"\x00\xff\x15\x03\x01 this is no protocol of yours\r\n\r\n"


class _Link:
    """One connection through the proxy: the client's side and the server's."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.orphaned = False
        self.doomed = False  # its next reply is the one to lose
        self.is_stalled = False  # counted as stalled
        self.broken = False
        self.tail = b""  # what was sent last: a match may lie across two chunks
        self.open_ways = 2

    def cut(self, *, reset: bool = False) -> None:
        self.broken = True
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                if reset:
                    # Wakes the pumps and sends nothing: the RST comes with their closing.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    end.shutdown(socket.SHUT_RD)
                else:
                    end.shutdown(socket.SHUT_RDWR)


class FaultProxy:
    """Forwards 127.0.0.1:`port` to the target from construction until close().

    `control_url` + `/_control`: GET the fault and the counts, POST a fault, DELETE for ok.
    """

    def __init__(self, target_host: str, target_port: int, port: int = 0) -> None:
        self._target = (target_host, target_port)
        self._changed = threading.Condition()  # its lock may be taken again by its holder
        self._fault = NetworkFault()
        self._closed = False
        self._links: set[_Link] = set()
        self._counts: Counter[str] = Counter()
        self._listener = _bound(port)
        self.port = int(self._listener.getsockname()[1])
        self._listen()
        self._control = Server(self._answer)
        self.control_url = self._control.url

    def switch(self, mode: str = "ok", **options: Any) -> None:
        """Set the fault (see Fault); InvalidFault names a bad value."""
        self._set(NetworkFault.parse({"mode": mode, **options}))

    def ok(self) -> None:
        self._set(NetworkFault())

    def counts(self) -> dict[str, int]:
        """accepted, reset, cut, stalled, slowed, dropped, garbled connections (slowed: chunks)."""
        with self._changed:
            return dict(self._counts)

    @property
    def live(self) -> int:
        """Connections open now."""
        with self._changed:
            return len(self._links)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._deafen()
            self._cut_all()
            self._changed.notify_all()
        self._control.close()

    def _set(self, fault: NetworkFault) -> None:
        with self._changed:
            before = self._fault.mode
            self._fault = NetworkFault() if fault.mode in ("kill", "orphan") else fault
            if fault.mode == "orphan":
                for link in self._links:
                    link.orphaned = True
            # Under the lock: two switches at once must not leave a listener too many.
            if fault.mode == "refuse" and before != "refuse":
                self._deafen()
                self._listener = _bound(self.port)
            if before == "refuse" and fault.mode != "refuse":
                self._listen()
            if fault.mode in ("kill", "refuse", "reset"):
                # Before anything that waits may pass.
                self._cut_all(reset=fault.mode == "reset")
            self._changed.notify_all()

    def _listen(self) -> None:
        self._listener.listen(512)
        name = f"accept-{self.port}"
        args = (self._listener,)
        threading.Thread(target=self._accept, args=args, name=name, daemon=True).start()

    def _deafen(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() does not
        self._listener.close()

    def _cut_all(self, *, reset: bool = False) -> None:
        with self._changed:
            self._counts["cut"] += len(self._links)
            for link in self._links:
                link.cut(reset=reset)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self._count("accepted")
            if self._fault.mode == "reset":
                self._count("reset")
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                near.close()
                continue
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target, timeout=10)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(near, far)
        with self._changed:
            self._links.add(link)
            late = self._closed or self._fault.mode == "refuse"
        if late:
            link.cut()
        threading.Thread(target=self._pump, args=(link, far, near), daemon=True).start()
        self._pump(link, near, far)

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        """Pass bytes one way until either end is closed, its end included."""
        try:
            while True:
                data = source.recv(_CHUNK_BYTES)
                if not self._may_pass(link, data, upward=source is link.near):
                    if not link.broken:
                        link.cut()
                    return
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
        except OSError:
            link.cut()
        finally:
            self._leave(link)

    def _leave(self, link: _Link) -> None:
        with self._changed:
            link.open_ways -= 1
            if link.open_ways:
                return
            self._links.discard(link)
        link.near.close()
        link.far.close()

    def _may_pass(self, link: _Link, data: bytes, *, upward: bool) -> bool:
        """Wait as long as the fault says; False when the connection is to be cut."""
        with self._changed:
            while self._holds(link):
                self._counts["stalled"] += not link.is_stalled
                link.is_stalled = True
                self._changed.wait()
            link.is_stalled = False
            if self._fault.mode == "slow" and data:
                self._counts["slowed"] += 1
                fault = self._fault
                self._changed.wait_for(lambda: self._fault is not fault, fault.delay_s)
            if link.broken or self._closed:
                return False
            if upward:
                return self._upward(link, data)
            if link.doomed and data:
                self._counts["dropped"] += 1
                return False
            return True

    def _holds(self, link: _Link) -> bool:
        must_stall = link.orphaned or self._fault.mode == "stall"
        return must_stall and not link.broken and not self._closed

    def _upward(self, link: _Link, data: bytes) -> bool:
        fault = self._fault
        if fault.mode == "garbage" and data:
            self._counts["garbled"] += 1
            with contextlib.suppress(OSError):
                link.near.sendall(_NOISE)
            self._fault = fault.after_use()
            return False
        match = fault.match.lower().encode()
        sent = link.tail + data
        if fault.mode == "drop_reply" and not link.doomed and match in sent.lower():
            link.doomed = True
            self._fault = fault.after_use()
        # Too short to hold a whole match: a statement of before must not count again.
        link.tail = sent[-len(match) + 1 :] if len(match) > 1 else b""
        return True

    def _count(self, name: str) -> None:
        with self._changed:
            self._counts[name] += 1

    def _answer(self, request: Request) -> Response:
        if request.path != "/_control":
            return as_json({"error": "the switch is at /_control"}, 404)
        if request.method == "DELETE":
            self.ok()
        elif request.method == "POST":
            try:
                self._set(NetworkFault.parse(request.json()))
            except (InvalidFault, ValueError, RecursionError) as fault:
                return as_json({"error": str(fault)}, 400)
        return as_json({**asdict(self._fault), "counts": self.counts()})


def _bound(port: int) -> socket.socket:
    """A socket that holds `port` and does not listen yet: connections to it are refused."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((HOST, port))
    return made
