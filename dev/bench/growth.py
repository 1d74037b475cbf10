"""What each thing costs with 1,000, 100,000 and 1,000,000 leads in the table, and its plans.

`python3 -m dev bench growth [--leads N …] [--runs N]`. A platform of its own, filled by SQL as it
stands after a year: origins and mails older than 90 days have ended but for one day's share. The
plans are PostgreSQL's own (auto_explain), of the statements inside functions too.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg

from dev.bootstrap import ROOT
from dev.edge import runtime
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.leads import export, repository, submission
from lib.leads.lead import Lead, Recipients
from lib.leads.repository import Terms
from lib.monitoring import status_page
from lib.services import Services
from lib.settings import Settings

SIZES = (1_000, 100_000, 1_000_000)
GROWING_TABLES = {"leads", "outbox"}
ENDED_A_DAY = 300  # leads whose origin and mails end with this day's prune
FLAT = 2.0  # at most so many times the smallest table's time, or the difference below
FLAT_MS = 5.0
UNLIMITED = 10_000_000

FILL = """
with lead as (
  insert into leads (
    id, ref, created_at, business_name, contact_name, phone_whatsapp, city, salon_type, email,
    chair_count, message, page_url_current, locale, consent_at, consent_version, consent_locale,
    ip_address, user_agent, identity, content_identity, same_until, key_span, body_sha256,
    journaled)
  select gen_random_uuid(), 'ALFA-' || lpad(i::text, 8, '0'), at, 'Salon Mawar ' || i, 'Sari ' || i,
    '+62812' || lpad(i::text, 8, '0'), (array['Medan', 'Jakarta', 'Denpasar'])[1 + i % 3], 'SALON',
    case when i % 2 = 0 then 'sari' || i || '@example.com' end, 1 + i % 20,
    'Kami tertarik bermitra; mohon info harga dan syaratnya untuk salon kami nomor ' || i || '.',
    'https://alfabeauty.co.id/?utm_source=ig', 'id', at, '2026-11', 'id',
    case when is_recent then '203.0.113.1'::inet + i % 250 end,
    case when is_recent then 'Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Mobile' end,
    decode(md5(i::text) || md5(i::text), 'hex'), decode(md5(i::text) || md5(i::text), 'hex'),
    at + interval '1 day', 'empty', '', true
  from generate_series(1, {leads}) as i,
    lateral (select i > {leads} * 0.75 - {ended} as is_recent) as r,
    lateral (select now() - interval '1 hour' - case
      when i > {leads} * 0.75 then interval '89 days' * ({leads} - i) / ({leads} * 0.25)
      when is_recent then interval '90 days' + interval '1 minute' * ({leads} - i) / {leads}
      else interval '91 days' + interval '270 days' * ({leads} - i) / {leads} end as at) as moment
  returning id, created_at, business_name, message, ip_address is not null as is_recent
)
insert into outbox (lead_id, kind, sender, recipients, subject, body_text, body_html, created_at,
  next_attempt_at, attempts, sent_at, provider_id)
select id, kind, 'noreply@alfabeauty.co.id', '{{sales@alfabeauty.co.id}}',
  'New Lead: ' || business_name, message, message, created_at, created_at, 1,
  created_at, gen_random_uuid()::text
from lead, unnest(array['sales', 'acknowledgement']) as kind
where is_recent
"""

LOG_PLANS = (
    "alter system set session_preload_libraries = 'auto_explain'",
    "alter system set auto_explain.log_nested_statements = on",
    "alter system set auto_explain.log_format = json",
    "alter system set auto_explain.log_min_duration = {}",
    "select pg_reload_conf()",
)


@dataclass(slots=True)
class Step:
    """One thing that is measured. ms: by the size of the table; plans: at the last one."""

    name: str
    run: Callable[[], object]
    runs: int = 1
    ms: dict[int, float] = field(default_factory=dict)
    plans: dict[int, set[str]] = field(default_factory=dict)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench growth")
    parser.add_argument("--leads", type=int, nargs="+", default=SIZES)
    parser.add_argument("--runs", type=int, default=15, help="of each short step")
    options = parser.parse_args(arguments)
    table: dict[str, Step] = {}
    with (
        tempfile.TemporaryDirectory() as data,
        Platform(ROOT, Path(data), durable=False, environ=_limits()) as platform,
    ):
        for size in options.leads:
            _fill(platform, size)
            with _steps(platform, options.runs) as steps:
                for step in steps:
                    measured = table.setdefault(step.name, step)
                    measured.ms[size], measured.plans[size] = _measure(platform, step)
    _print(list(table.values()), options.leads)
    return 0


def _limits() -> dict[str, str]:
    names = ("LEADS_PER_MINUTE", "LEADS_PER_HOUR", "LEADS_CEILING_PER_MINUTE", "MAIL_PER_SECOND")
    return dict.fromkeys(names, str(UNLIMITED))


def _fill(platform: Platform, leads: int) -> None:
    started = time.perf_counter()
    with psycopg.connect(platform.superuser_database_url, autocommit=True) as admin:
        admin.execute("set statement_timeout = 0")
        admin.execute("truncate leads, outbox, lead_clients, metric_minutes cascade")
        admin.execute(FILL.format(leads=leads, ended=min(ENDED_A_DAY, leads // 4)).encode())
        admin.execute("vacuum analyze")
    print(f"{leads:,} leads in {time.perf_counter() - started:.0f} s", flush=True)


# ---------------------------------------------------------------- what is measured


@contextmanager
def _steps(platform: Platform, runs: int) -> Iterator[list[Step]]:
    settings = Settings(platform.environment)
    with ExitStack() as parts:
        services = parts.enter_context(closing(Services(settings)))
        leads = parts.enter_context(platform.function("api/leads.py"))
        exports = parts.enter_context(platform.function("api/leads_export.py"))
        numbers = iter(range(UNLIMITED))
        run = services.database.run
        yield [
            Step("accept_lead, the statement", lambda: _store(services, next(numbers)), runs),
            Step("POST /api/leads", lambda: _post(leads, next(numbers)), runs),
            Step(f"export, {export.BATCH_ROWS:,} rows", lambda: _export(platform, exports), 3),
            Step("desk's search, a rare word", partial(_search, platform, "Mawar 731"), 2),
            Step("status document", lambda: status_page.load(run, _now(), "bench"), runs),
            Step("watch", lambda: platform.cron("watch"), 3),
            Step("prune", lambda: platform.cron("prune")),
        ]


def _now() -> datetime:
    return datetime.now(UTC)


def _form(number: int) -> dict[str, object]:
    token = f"{time.time_ns():x}{number}"
    return {
        "business_name": f"Salon Baru {token}",
        "contact_name": "Sari",
        "phone_whatsapp": f"+62813{time.time_ns() // 1000 % 10**8:08}",
        "city": "Medan",
        "salon_type": "SALON",
        "consent": True,
        "email": f"sari{token}@example.com",
        "message": f"Mohon info harga untuk salon {token}.",
    }


def _store(services: Services, number: int) -> None:
    lead = Lead.from_submission(
        submission.parse(_form(number)), key=None, locale="id", now=_now(),
        ip_address="203.0.113.7", user_agent="Mozilla/5.0",
    )  # fmt: skip
    terms = Terms(number.to_bytes(32), UNLIMITED, UNLIMITED, UNLIMITED, max_repeats=5)
    repository.insert(
        services.database.run, lead, Recipients("a@b.co", ("s@b.co",)), now=_now(),
        deliver_now=True, erasure_keys=(), terms=terms,
    )  # fmt: skip


def _post(function: Function, number: int) -> None:
    response = httpx.post(f"{function.url}/api/leads", json=_form(number), timeout=60)
    response.raise_for_status()


def _export(platform: Platform, function: Function) -> None:
    token = {"Authorization": f"Bearer {platform.environment['LEADS_ADMIN_TOKEN']}"}
    address = f"{function.url}/api/leads/export"
    response = httpx.get(address, params={"limit": export.BATCH_ROWS}, headers=token, timeout=60)
    response.raise_for_status()


def _search(platform: Platform, text: str) -> None:
    """The desk's command, a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "ops.cli", "leads", "search", text],
        cwd=ROOT,
        env={**runtime.base_environment(), **platform.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


# ---------------------------------------------------------------- times and plans


def _measure(platform: Platform, step: Step) -> tuple[float, set[str]]:
    """The median in ms with plans unlogged, after one run for the plans."""
    log = platform.postgres._log
    _log_plans(platform, "0")
    offset = log.stat().st_size
    step.run()
    _wait_until_idle(platform)
    _log_plans(platform, "-1")
    with log.open("rb") as file:
        file.seek(offset)
        plans = _scans(file.read().decode(errors="replace"))
    times = []
    for _ in range(step.runs):
        started = time.perf_counter()
        step.run()
        times.append((time.perf_counter() - started) * 1000)
        _wait_until_idle(platform)
    return statistics.median(times), plans


def _log_plans(platform: Platform, least_ms: str) -> None:
    with psycopg.connect(platform.superuser_database_url, autocommit=True) as admin:
        admin.execute("load 'auto_explain'")
        for statement in LOG_PLANS:
            admin.execute(statement.format(least_ms).encode())
    time.sleep(0.2)  # until every session has read it


def _wait_until_idle(platform: Platform) -> None:
    while not platform.is_idle():
        time.sleep(0.002)


def _scans(log: str) -> set[str]:
    """How each growing table is read: by which index, or whole."""
    scans: set[str] = set()
    for match in re.finditer(r"duration: [\d.]+ ms  plan:\n((?:\t.*\n)+)", log):
        document = json.loads(match[1].replace("\n\t", "\n"))
        words = " ".join(document["Query Text"].split())
        _add_scans(document["Plan"], scans, None, words[:100])
    return scans


def _add_scans(node: dict[str, Any], scans: set[str], table: str | None, words: str) -> None:
    table = node.get("Relation Name", table)
    kind, index = node["Node Type"], node.get("Index Name")
    if table in GROWING_TABLES and kind == "Seq Scan":
        scans.add(f"SEQ SCAN on {table} ({words} …)")
    elif index is not None and index.startswith(tuple(GROWING_TABLES)):
        scans.add(index)
    for child in node.get("Plans", ()):
        _add_scans(child, scans, table, words)


# ---------------------------------------------------------------- the table


def _print(steps: list[Step], sizes: list[int]) -> None:
    least, most = sizes[0], sizes[-1]
    print(f"\n{'median ms with so many leads':32}" + "".join(f"{n:>12,}" for n in sizes) + "   x")
    for step in steps:
        times = "".join(f"{step.ms[n]:12.1f}" for n in sizes)
        ratio = step.ms[most] / step.ms[least]
        is_flat = ratio <= FLAT or step.ms[most] - step.ms[least] <= FLAT_MS
        print(f"{step.name:32}{times}{ratio:7.2f}{'' if is_flat else '  grows'}")
    print(f"\nindexes used with {most:,} leads, and tables read whole")
    for step in steps:
        print(f"{step.name:32}  {', '.join(sorted(step.plans[most])) or 'none'}")
