"""Requests of every public service, offered at a fixed rate, and what was answered."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from dev.faults.oracle import Oracle

CALLERS = 128
TIMEOUT_S = 30.0
LEAD_ATTEMPTS = 4  # with the same key, as the form sends it again
RETRY_PAUSE_S = 0.5
PRODUCT_TARGETS = (
    "/api/products",
    "/api/products?limit=24",
    "/api/products?q=keratin&limit=24",
    "/api/products?category=shampoo&limit=12&facets=1",
)
BROWSER = {"User-Agent": "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Mobile"}

MIX: Mapping[str, float] = {"leads": 1.0, "products": 3.0, "rum": 3.0, "health": 0.5, "status": 0.5}
"""Requests a second of each service at rate 1, which makes 8 together."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. at_s: when it was offered, from the start; status 0: none came."""

    service: str
    at_s: float
    seconds: float
    status: int

    @property
    def is_error(self) -> bool:
        return self.status == 0 or self.status >= 500


@dataclass(slots=True)
class Traffic:
    """Offers requests until it is stopped. leads go through the oracle, which counts them."""

    oracle: Oracle
    url: str
    samples: list[Sample] = field(default_factory=list)
    offered: int = 0
    _started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _client: httpx.Client = field(
        default_factory=lambda: httpx.Client(
            trust_env=False, timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=None)
        )
    )

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def run(self, rate: float, seconds: float) -> None:
        """Back when every request offered in that time is through."""
        with ThreadPoolExecutor(CALLERS) as callers:
            for at_s, service in schedule(rate, seconds, self.elapsed_s):
                time.sleep(max(0.0, at_s - self.elapsed_s))
                self.offered += 1
                callers.submit(self._send, service, at_s)
        self._client.close()

    def _send(self, service: str, at_s: float) -> None:
        if service == "leads":
            self._send_lead(at_s)
        else:
            self._record(service, at_s, self._ask(service))

    def _send_lead(self, at_s: float) -> None:
        """Its first answer is measured; the others keep it from being lost."""
        attempt = self.oracle.new_attempt()
        for number in range(LEAD_ATTEMPTS):
            answer = self.oracle.post(attempt, TIMEOUT_S)
            if number == 0:
                self._record("leads", at_s, answer.status)
            if not answer.is_retryable:
                break
            time.sleep(RETRY_PAUSE_S * (number + 1))

    def _ask(self, service: str) -> int:
        number = next(self._numbers)
        try:
            if service == "rum":
                item = {
                    "name": "LCP",
                    "value": 1500 + number % 900,
                    "id": f"l{number}",
                    "page": "/",
                }
                response = self._client.post(
                    f"{self.url}/api/rum", content=json.dumps([item]), headers=BROWSER
                )
            else:
                response = self._client.get(self.url + _target(service, number), headers=BROWSER)
        except httpx.HTTPError:
            return 0
        return response.status_code

    def _record(self, service: str, at_s: float, status: int) -> None:
        # From when it was due: a request that waited for a caller waited for us.
        sample = Sample(service, at_s, self.elapsed_s - at_s, status)
        with self._lock:
            self.samples.append(sample)


def schedule(rate: float, seconds: float, from_s: float = 0.0) -> Iterator[tuple[float, str]]:
    """When which service is asked: each at its own even pace, in the order of time."""
    due = [
        (from_s + (number + offset) / (per_second * rate), service)
        for offset, (service, per_second) in zip(
            (0.1, 0.3, 0.5, 0.7, 0.9), MIX.items(), strict=True
        )
        for number in range(int(per_second * rate * seconds))
    ]
    yield from sorted(due)


def _target(service: str, number: int) -> str:
    if service == "products":
        return PRODUCT_TARGETS[number % len(PRODUCT_TARGETS)]
    return f"/api/{service}"


def run_beside(work: Callable[[], object]) -> threading.Thread:
    """Started in a thread of its own."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
