"""Rules over the requests that were answered: how many failed or were slow.

A rate counts only over enough requests, for half an hour and still in its last ten minutes: one
visitor who retries makes a bad ten minutes out of one error (the tests simulate 30 quiet days).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter

WINDOW, RECENT_WINDOW = timedelta(minutes=30), timedelta(minutes=10)
MAJORITY_WINDOW = timedelta(minutes=5)
MAX_GAP = timedelta(minutes=5)  # without a bad minute, within one incident
SLOW_REQUEST_MS = 5000  # handbook: API over 5 s latency
MAX_ERROR_RATE, MAX_SLOW_RATE = 0.05, 0.05  # handbook: error rate over 5 %; p95 is the 95th of 100
MIN_REQUESTS, MIN_BAD_REQUESTS, MIN_RECENT_BAD = 20, 5, 2
Z_95 = 1.96  # of the normal distribution: two-sided 95 %
MAJORITY, MAJORITY_MIN_REQUESTS, MAJORITY_MIN_ERRORS = 0.5, 20, 10
MIN_FAILED_LEADS = 3


@dataclass(frozen=True, slots=True)
class MinuteCounts:
    """What one service answered in one minute. queued: taken, not stored yet."""

    requests: int
    errors: int
    slow: int
    queued: int = 0


type Traffic = Mapping[str, Mapping[datetime, MinuteCounts]]
"""service -> minute -> counts"""
type CountBad = Callable[[MinuteCounts], int]

_errors: CountBad = attrgetter("errors")
_slow: CountBad = attrgetter("slow")


def total(minutes: Iterable[MinuteCounts]) -> MinuteCounts:
    requests = errors = slow = queued = 0
    for counts in minutes:
        requests += counts.requests
        errors += counts.errors
        slow += counts.slow
        queued += counts.queued
    return MinuteCounts(requests, errors, slow, queued)


def _within(traffic: Traffic, now: datetime, service: str, window: timedelta) -> MinuteCounts:
    minutes, since = traffic.get(service, {}), now - window
    return total(counts for at, counts in minutes.items() if at >= since)


def most_requests_failing(traffic: Traffic, now: datetime) -> str | None:
    """Of all services together: in an outage errors are soon the majority."""
    counts = total(_within(traffic, now, service, MAJORITY_WINDOW) for service in traffic)
    is_enough = counts.requests >= MAJORITY_MIN_REQUESTS and counts.errors >= MAJORITY_MIN_ERRORS
    if is_enough and counts.errors >= MAJORITY * counts.requests:
        return f"{counts.errors} of {counts.requests} requests failed in 5 minutes"
    return None


def leads_failing(traffic: Traffic, now: datetime) -> str | None:
    counts = _within(traffic, now, "leads", RECENT_WINDOW)
    if counts.errors >= MIN_FAILED_LEADS and counts.errors >= MAJORITY * counts.requests:
        return f"{counts.errors} of {counts.requests} lead submissions failed in 10 minutes"
    return None


def too_many_errors(traffic: Traffic, now: datetime) -> str | None:
    return _services_over(traffic, now, _errors, MAX_ERROR_RATE, "failed")


def too_many_slow(traffic: Traffic, now: datetime) -> str | None:
    return _services_over(traffic, now, _slow, MAX_SLOW_RATE, "took over 5 s")


def _services_over(
    traffic: Traffic, now: datetime, count_bad: CountBad, max_rate: float, verb: str
) -> str | None:
    sentences = []
    for service in sorted(traffic):
        counts = _within(traffic, now, service, WINDOW)
        n, bad = counts.requests, count_bad(counts)
        if n < MIN_REQUESTS or bad < MIN_BAD_REQUESTS:
            continue
        recent = _within(traffic, now, service, RECENT_WINDOW)
        recent_bad = count_bad(recent)
        if recent_bad < MIN_RECENT_BAD:
            continue
        if recent_bad > max_rate * recent.requests and wilson_lower_bound(bad, n) > max_rate:
            sentences.append(f"{service}: {bad} of {n} requests {verb} in 30 minutes")
    return "; ".join(sentences) or None


def wilson_lower_bound(k: int, n: int) -> float:
    """The least rate that a sample of k in n still makes likely, at 95 %.

    6 of 100 may be chance where 5 % are meant; 60 of 1000 too; 11 of 100 are not.
    """
    p, zz = k / n, Z_95 * Z_95
    spread = Z_95 * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return (p + zz / (2 * n) - spread) / (1 + zz / n)


# Rules over the traffic: how far back they look, at which services (none: all), and at what.
TRAFFIC_RULES: Mapping[str, tuple[timedelta, tuple[str, ...], CountBad]] = {
    "most_requests_failing": (MAJORITY_WINDOW, (), _errors),
    "leads_failing": (RECENT_WINDOW, ("leads",), _errors),
    "errors_over_5_percent": (WINDOW, (), _errors),
    "slow_over_5_seconds": (WINDOW, (), _slow),
}


def started_at(rule: str, traffic: Traffic, now: datetime) -> datetime:
    """For a rule over the traffic, the first of the bad minutes that last until now; else now.

    An error of a quarter of an hour ago began nothing. A minute counts from its end, so that
    nothing begins before its first bad request.
    """
    if rule not in TRAFFIC_RULES:
        return now
    window, services, count_bad = TRAFFIC_RULES[rule]
    bad_minutes = sorted(
        minute
        for service, minutes in traffic.items()
        for minute, counts in minutes.items()
        if service in (services or traffic) and count_bad(counts) and minute >= now - window
    )
    first = bad_minutes[-1] if bad_minutes else now
    for minute in reversed(bad_minutes):
        if first - minute > MAX_GAP:
            break
        first = minute
    return min(first + timedelta(seconds=59), now)
