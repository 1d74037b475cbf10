"""A million leads: their export, one person's erasure, a replay after a restore, and retention.

`python3 -m dev bench privacy [--leads N]`. A platform of its own. The export is taken over
HTTP from the function in Vercel's runtime; its memory is the process's peak, as Linux counts it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg

from dev.bootstrap import ROOT
from dev.platform.local_platform import Platform
from lib.leads import export, queue, submission
from lib.leads.lead import Lead
from lib.privacy import erasure, requests, retention
from lib.privacy.data_subject import Subject
from lib.services import Services
from lib.settings import Settings

LOAD_BATCH = 100_000
JOURNAL_ENTRIES = 10_000  # 5,000 leads a day
PRUNE_BUDGET_S = 35.0  # as the cron does

# Two leads a minute over the years until now, each with its two mails sent.
INSERT_LEADS = """
with lead as (
  insert into leads (
    id, ref, created_at, business_name, contact_name, phone_whatsapp, city, salon_type, email,
    chair_count, specialization, message, page_url_current, utm_source, locale, consent_at,
    consent_version, consent_locale, ip_address, user_agent, identity, same_until, body_sha256,
    journaled)
  select gen_random_uuid(), 'ALFA-' || lpad(i::text, 8, '0'), at, 'Salon Mawar ' || i, 'Sari ' || i,
    '+62812' || lpad(i::text, 8, '0'), (array['Medan', 'Jakarta', 'Denpasar'])[1 + i %% 3], 'SALON',
    case when i %% 2 = 0 then 'sari' || i || '@example.com' end, 1 + i %% 20, 'coloring, keratin',
    'Kami tertarik bermitra; mohon info harga dan syaratnya untuk salon kami nomor ' || i || '.',
    'https://alfabeauty.co.id/?utm_source=ig', 'ig', 'id', at, '2026-11', 'id',
    '203.0.113.1'::inet + i %% 250, 'Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Mobile',
    decode(md5(i::text) || md5(i::text), 'hex'), at + interval '1 day', '', true
  from generate_series(%(first)s::integer, %(last)s::integer) as i,
    lateral (select now() - (%(n)s - i) * interval '30 seconds' as at) as moment
  returning id, created_at, business_name, message
)
insert into outbox (lead_id, kind, sender, recipients, subject, body_text, body_html, created_at,
  next_attempt_at, attempts, sent_at, provider_id)
select id, kind, 'noreply@alfabeauty.co.id', '{sales@alfabeauty.co.id}',
  'New Lead: ' || business_name, message, message, created_at, created_at, 1,
  created_at, gen_random_uuid()::text
from lead, unnest(array['sales', 'acknowledgement']) as kind
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench privacy")
    parser.add_argument("--leads", type=int, default=1_000_000)
    n: int = parser.parse_args(arguments).leads
    with (
        tempfile.TemporaryDirectory() as data,
        Platform(ROOT, Path(data), durable=False) as platform,
        closing(Services(Settings(platform.environment))) as services,
    ):
        _load_leads(platform, n)
        _measure_export(platform)
        _measure_erasure(platform, services)
        _measure_replay(platform, services)
        _measure_retention(services)
    return 0


def _load_leads(platform: Platform, n: int) -> None:
    started = time.perf_counter()
    with psycopg.connect(platform.admin_database_url, autocommit=True) as admin:
        for first in range(1, n + 1, LOAD_BATCH):
            last = min(n, first + LOAD_BATCH - 1)
            admin.execute(INSERT_LEADS, {"first": first, "last": last, "n": n})
        admin.execute("vacuum analyze leads, outbox")
    print(f"{n:,} leads and {2 * n:,} mails loaded in {time.perf_counter() - started:.0f} s")


def _measure_export(platform: Platform) -> None:
    token = {"Authorization": f"Bearer {platform.environment['LEADS_ADMIN_TOKEN']}"}
    with platform.function("api/leads_export.py") as function:
        address = f"{function.url}/api/leads/export"
        few = {"limit": str(export.BATCH_ROWS)}
        httpx.get(address, params=few, headers=token, timeout=120)
        one_batch_kb = _peak_memory_kb(function.pid)
        started, size, first_s = time.perf_counter(), 0, 0.0
        with httpx.stream("GET", address, headers=token, timeout=120) as answer:
            for part in answer.iter_bytes():
                first_s = first_s or time.perf_counter() - started
                size += len(part)
                tail = part
        took_s = time.perf_counter() - started
        peak_kb = _peak_memory_kb(function.pid)
    rows = int(answer.headers["X-Row-Count"])
    whole = b"INCOMPLETE" not in tail
    print(f"\nexport: {rows:,} rows, {size / 1e6:.0f} MB, whole: {whole}")
    print(f"  first byte after {first_s:.2f} s, all after {took_s:.1f} s")
    print(f"  {rows / took_s:,.0f} rows a second")
    print(f"  its peak memory: {one_batch_kb / 1024:.1f} MB after {export.BATCH_ROWS:,} rows,")
    print(f"  {peak_kb / 1024:.1f} MB after all of them")


def _measure_erasure(platform: Platform, services: Services) -> None:
    _load_journal(services)
    whom = Subject(phones=("+6281200000777",))
    started = time.perf_counter()
    request = erasure.erase(services, whom, datetime.now(UTC), asked_by="command")
    took_s = time.perf_counter() - started
    receipt = requests.load_receipt(services.database.run, request)
    counts = {line["place"]: line["count"] for line in receipt["places"]} if receipt else {}
    print(f"\nerasing one of them, {JOURNAL_ENTRIES:,} sealed copies opened: {took_s:.1f} s")
    print(f"  {counts['leads']} lead, {counts['journal']} copy")
    started = time.perf_counter()
    with psycopg.connect(platform.admin_database_url, autocommit=True) as admin:
        admin.execute("delete from leads where email = 'sari888@example.com'")
    print(f"DELETE FROM leads WHERE email = …: {(time.perf_counter() - started) * 1000:.0f} ms")


def _load_journal(services: Services) -> None:
    """Two days of leads, one of them the person's."""
    for number in range(JOURNAL_ENTRIES):
        form = {
            "business_name": f"Salon {number}",
            "contact_name": "Sari",
            "phone_whatsapp": f"+62812{number:08}",
            "city": "Medan",
            "salon_type": "SALON",
            "consent": True,
            "message": f"Kami tertarik bermitra; mohon info harga untuk salon nomor {number}.",
        }
        lead = Lead.from_submission(
            submission.Submission.from_stored(**form),
            key=None,
            locale="id",
            now=datetime.now(UTC),
            ip_address="203.0.113.7",
            user_agent=None,
        )
        services.cache.pipeline(*queue.journal_commands(services.cipher, lead))


def _measure_replay(platform: Platform, services: Services) -> None:
    erasure.run_pending(services, datetime.now(UTC))
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "ops", "subject", "replay"],
        cwd=ROOT,
        env={**os.environ, **platform.environment},
        capture_output=True,
        text=True,
        check=True,
    )
    took_s = time.perf_counter() - started
    print(f"replay over all of them: {took_s:.1f} s; {result.stdout.strip()}")


def _measure_retention(services: Services) -> None:
    rules, now = retention.rules(1095), datetime.now(UTC)
    started = time.perf_counter()
    ended = retention.prune(services.database.run, rules, now, budget_s=PRUNE_BUDGET_S)
    took_s, total = time.perf_counter() - started, sum(ended.values())
    late = [age.name for age in retention.overdue(services.database.run, rules, now)]
    deleted = ", ".join(f"{name} {n:,}" for name, n in ended.items() if n)
    print(f"retention: {deleted} in {took_s:.0f} s, {total / took_s:,.0f} rows a second")
    print(f"  still late after that: {', '.join(late) or 'nothing'}")


def _peak_memory_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
