"""`ops metrics`: deployments compared by requests, errors and p95; `ops watch`: one monitor run."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click
from psycopg import Connection

from lib import maintenance, metrics
from lib.incidents import rules
from lib.monitoring import facts, monitor, service_levels
from lib.problems import CacheDown
from lib.services import Services
from ops import command
from ops.command import Args

AVAILABILITY_OBJECTIVE = 0.995  # share of requests without an error of ours

SELECT_BURN_RATES = """
select service, w.name, sum(n)::float, coalesce(sum(n) filter (where class = 'error'), 0)::float
from metric_minutes, (values ('5m', interval '5 minutes'), ('30m', interval '30 minutes'),
  ('1h', interval '1 hour'), ('6h', interval '6 hours')) as w (name, length)
where minute > %(now)s::timestamptz - w.length
group by service, w.name, w.length order by service, w.length
"""

SELECT_BY_DEPLOYMENT = """
select service, deployment, min(hour), max(hour), sum(n)::bigint,
  coalesce(sum(n) filter (where class = 'error'), 0)::bigint, array_agg(bucket), array_agg(n)
from metric_hours where hour > %(since)s group by service, deployment order by service, min(hour)
"""

COLUMNS = ("service", "deployment", "first", "last", "n", "errors", "error rate", "p95 ms")
BURN_WINDOWS = ("5m", "30m", "1h", "6h")


@command.root.command("metrics", examples=("python3 -m ops metrics --hours 6",))
@click.option("--hours", type=int, default=24, help="how far back", show_default=True)
def show_metrics(services: Services, args: Args) -> int:
    """Requests, errors and p95 of each service and deployment: is the new one worse?

    And the burn rates: how many times faster than 99.5 % allows errors are made; over 14.4 in 1h
    and 5m, or over 6 in 6h and 30m, needs action now.
    """
    now = datetime.now(UTC)
    since = now - timedelta(hours=args.hours)
    rates = services.database.run(lambda c: burn_rates(c, now))
    rows = services.database.run(
        lambda c: c.execute(SELECT_BY_DEPLOYMENT, {"since": since}).fetchall()
    )
    documents = [_summarize(row) for row in rows]
    if args.json:
        command.print_json({"services": documents, "burn_rates": rates})
        return 0
    table = [_format_row(document) for document in documents]
    empty = f"no request was counted in the last {args.hours} hours"
    command.print_table(COLUMNS, table, empty=empty)
    print()
    command.print_table(
        ("burn rate", *BURN_WINDOWS),
        [(name, *(of.get(window, "-") for window in BURN_WINDOWS)) for name, of in rates.items()],
        empty="no request was counted in the last 6 hours: there is no burn rate",
    )
    return 0


def _summarize(row: tuple[Any, ...]) -> dict[str, Any]:
    """error_rate: a share of 1; p95_ms: null where there are too few requests."""
    service, deployment, first, last, n, errors, buckets, counts = row
    histogram: dict[int, int] = {}
    for bucket, count in zip(buckets, counts, strict=True):
        histogram[bucket] = histogram.get(bucket, 0) + count
    p95 = metrics.quantile(histogram, 0.95) if n >= service_levels.MIN_REQUESTS else None
    return {"service": service, "deployment": deployment, "first": first, "last": last, "n": n,
            "errors": errors, "error_rate": round(errors / n, 6),
            "p95_ms": round(p95[0]) if p95 else None}  # fmt: skip


def _format_row(document: dict[str, Any]) -> tuple[Any, ...]:
    *values, error_rate, p95_ms = document.values()
    return (*values, f"{error_rate:.2%}", "too few" if p95_ms is None else p95_ms)


def burn_rates(connection: Connection[Any], now: datetime) -> dict[str, dict[str, float]]:
    """Service -> window -> its error rate over the one that AVAILABILITY_OBJECTIVE allows.

    The bounds in the help are the SRE workbook's.
    """
    rates: dict[str, dict[str, float]] = {}
    for service, window, n, errors in connection.execute(SELECT_BURN_RATES, {"now": now}):
        rates.setdefault(service, {})[window] = round(errors / n / (1 - AVAILABILITY_OBJECTIVE), 2)
    return rates


@command.root.command("watch", examples=("python3 -m ops watch --dry-run",), dry_run=True)
def run_monitor(services: Services, args: Args) -> int:
    """Run the monitor once from here, as the cron does. Exit 1 when something is wrong."""
    now = datetime.now(UTC)
    try:
        window = maintenance.parse_window(services.cache.execute("GET", maintenance.KEY), now)
    except CacheDown:
        window = None
    if args.dry_run:
        findings = rules.evaluate(facts.collect_facts(services, window, now))
    else:
        report = monitor.run(services, window, now)
        if report.busy:
            line = "Another monitor run is in progress: its findings are in `ops incident list`"
            command.print_result(args, {"busy": True}, line)
            return 0
        findings = list(report.findings)
    rows = [(finding.severity, finding.rule, finding.description) for finding in findings]
    if args.json:
        command.print_json(
            [{"rule": rule, "severity": sev, "what": what} for sev, rule, what in rows]
        )
    else:
        command.print_table(
            ("severity", "rule", "what"), rows, empty="no rule finds anything wrong"
        )
    return 1 if findings else 0
