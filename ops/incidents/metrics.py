"""Commands about what was measured: services, releases against one another, the watch by hand."""

import argparse
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from lib import maintenance, metrics
from lib.incidents import rules
from lib.monitoring import monitor, rollup, status_page
from lib.problems import CacheDown
from lib.services import Services
from ops import command


def show_metrics(services: Services, args: argparse.Namespace) -> int:
    """Requests, errors and p95 of each service and deployment: is the new one worse?

    And the burn rates: how many times faster than 99.5 % allows errors are made; over 14.4 in 1h
    and 5m, or over 6 in 6h and 30m, is worth getting up for.
    """
    now = datetime.now(UTC)
    since = now - timedelta(hours=args.hours)
    burn = services.database.run(lambda c: rollup.burn_rates(c, now))
    rows = services.database.run(
        lambda c: c.execute(rollup.SELECT_BY_DEPLOYMENT, {"since": since}).fetchall()
    )
    shown = []
    for service, deployment, first, last, n, errors, buckets, counts in rows:
        summed: dict[int, int] = {}
        for bucket, count in zip(buckets, counts, strict=True):
            summed[bucket] = summed.get(bucket, 0) + count
        p95 = metrics.quantile(summed, 0.95) if n >= status_page.MIN_REQUESTS else None
        shown.append((service, deployment, f"{first:%m-%d %H}h", f"{last:%m-%d %H}h", n, errors,
                      f"{errors / n:.2%}", round(p95[0]) if p95 else "too few"))  # fmt: skip
    names = ("service", "deployment", "first", "last", "n", "errors", "error rate", "p95 ms")
    if args.json:
        rows = [dict(zip(names, row, strict=True)) for row in shown]
        command.print_json({"services": rows, "burn_rates": burn})
        return 0
    command.print_table(names, shown)
    print()
    windows = ("5m", "30m", "1h", "6h")
    rates = [(name, *(found.get(w, "-") for w in windows)) for name, found in burn.items()]
    command.print_table(("burn rate", *windows), rates)
    return 0


def run_monitor(services: Services, args: argparse.Namespace) -> int:
    """Make one watch from here, as the cron does. Exit 1 when something is wrong."""
    now = datetime.now(UTC)
    try:
        switch = maintenance.parse_window(services.cache.execute("GET", maintenance.KEY), now)
    except CacheDown:
        switch = None
    if args.dry_run:
        facts, _ = monitor.collect_facts(services, switch, now)
        found = rules.evaluate(facts)
    else:
        report = monitor.run(services, switch, now)
        if report.busy:
            print("another watch is at it")
            return 0
        found = list(report.findings)
    if args.json:
        print(
            json.dumps(
                [{"rule": o.rule, "severity": o.severity, "what": o.description} for o in found]
            )
        )
    else:
        command.print_table(
            ("severity", "rule", "what"), [(o.severity, o.rule, o.description) for o in found]
        )
    return 1 if found else 0


def add_commands(areas: Any) -> None:
    verb = command.command(
        areas, "metrics", show_metrics, "python3 -m ops metrics --hours 6", as_json=True
    )
    verb.add_argument("--hours", type=int, default=24, help="how far back (default: 24)")
    command.command(
        areas,
        "watch",
        run_monitor,
        "python3 -m ops watch --dry-run",
        dry_run=True,
        as_json=True,
    )
