"""A vendor on this machine: its wire format, what it received, and a switch to make it fail."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from dev.edge.http_server import Cut, Request, Response, Server, as_json
from dev.vendors.fault_switch import InvalidFault, Switch, VendorFault

type Pause = Callable[[], None]

MAX_RECORDS = 10_000


class VendorBehavior(Protocol):
    """What one vendor does with a request."""

    name: str

    def respond(self, request: Request, pause: Pause) -> Response:
        """Do the work and answer; `pause` is called after the work, before the answer is final."""

    def failure(self, request: Request, status: int) -> Response:
        """An error answer in the vendor's documented format."""

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        """A 429 in the vendor's documented format."""

    def page(self, request: Request) -> Response | None:
        """A page for people; None when the request is for the vendor itself."""

    def describe(self, request: Request) -> Any:
        """The request's body as the record shows it."""

    def forget(self) -> None:
        """Drop everything received."""


class FakeVendor:
    """Serves `vendor` with its control addresses `/_control` and `/_received`."""

    def __init__(self, vendor: VendorBehavior, port: int = 0) -> None:
        self.vendor = vendor
        self.name = vendor.name
        self._switch = Switch()
        self._records: deque[dict[str, Any]] = deque(maxlen=MAX_RECORDS)
        self._lock = threading.Lock()
        self._let_in: list[float] = []  # by `limit`
        self._server = Server(self._answer, port)
        self.url = self._server.url
        self.port = self._server.port

    def switch(self, mode: str = "ok", **options: Any) -> None:
        """Set the fault (see faults.Fault); InvalidFault names a bad value."""
        self._switch.set(VendorFault.parse({"mode": mode, **options}))

    def ok(self) -> None:
        self._switch.set(VendorFault())

    def fault(self) -> dict[str, Any]:
        """What the switch is set to."""
        return self._switch.current()

    def received(self) -> list[dict[str, Any]]:
        """Every request: {at, method, path, headers, body, outcome}, oldest first."""
        with self._lock:
            return [dict(record) for record in self._records]

    def forget(self) -> None:
        with self._lock:
            self._records.clear()
        self.vendor.forget()

    def close(self) -> None:
        self.ok()
        self._server.close()

    def _answer(self, request: Request) -> Response:
        if request.path == "/_control":
            return self._control(request)
        if request.path == "/_received":
            if request.method == "DELETE":
                self.forget()
            return as_json(self.received())
        return self.vendor.page(request) or self._handle(request)

    def _control(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.ok()
        elif request.method == "POST":
            try:
                self._switch.set(VendorFault.parse(request.json()))
            except (InvalidFault, ValueError, RecursionError) as fault:
                return as_json({"error": str(fault)}, 400)
        return as_json(self.fault())

    def _handle(self, request: Request) -> Response:
        body = self.vendor.describe(request)
        fault, version = self._switch.take(request.target + "\n" + str(body))
        record = self._record(request, body, fault.mode)
        if fault.mode == "limit" and self._exceeds_rate(fault.per_second):
            return self.vendor.rate_limited(request, fault.retry_after_s)
        if fault.mode in ("ok", "slow", "lose_reply", "limit"):
            delay_s = fault.delay_s if fault.mode == "slow" else 0.0
            response = self.vendor.respond(request, lambda: self._pause(version, delay_s))
            if fault.mode in ("ok", "limit"):
                record["outcome"] = response.outcome or _outcome(response)
            if fault.mode == "lose_reply":
                raise Cut
            return response
        if fault.mode == "rate_limit":
            return self.vendor.rate_limited(request, fault.retry_after_s)
        if fault.mode == "fail" and fault.name is not None:
            body_of_fault = {"statusCode": fault.status, "name": fault.name,
                             "message": fault.message or "An error occurred."}  # fmt: skip
            return as_json(body_of_fault, fault.status)
        if fault.mode == "fail":
            return self.vendor.failure(request, fault.status)
        if fault.mode == "stall":
            self._switch.wait(version)
        raise Cut(reset=fault.mode == "reset")

    def _exceeds_rate(self, per_second: int) -> bool:
        """Whether this request is one too many of the last second; one that is does not count."""
        with self._lock:
            now = time.monotonic()
            self._let_in = [at for at in self._let_in if at > now - 1.0]
            if len(self._let_in) >= per_second:
                return True
            self._let_in.append(now)
            return False

    def _pause(self, version: int, delay_s: float) -> None:
        if delay_s:
            self._switch.wait(version, delay_s)

    def _record(self, request: Request, body: Any, outcome: str) -> dict[str, Any]:
        record = {
            "at": time.time(),
            "method": request.method,
            "path": request.target,
            "headers": {name.lower(): value for name, value in request.headers},
            "body": body,
            "outcome": outcome,
        }
        with self._lock:
            self._records.append(record)
        return record


def _outcome(response: Response) -> str:
    return "ok" if response.status < 400 else "refused"
