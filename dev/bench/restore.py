"""How long until a lead gets through again: a database of a million leads, destroyed and restored.

`python3 -m dev bench restore [--leads N] [--mails N]`. A platform of its own. Leads and their
rendered mails are made of one that went the whole way; then `ops backup`, more leads by HTTP, one
person erased, the tables dropped, and `ops restore` as an operator runs it, to its last step.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict

from dev.bootstrap import ROOT
from dev.faults.test_site import NO_RATE_LIMITS
from dev.platform.local_platform import Platform

AFTER = 100  # leads taken between the backup and the disaster
ERASED = f"{hashlib.md5(b'1').hexdigest()}@example.com"  # the first made-up lead's

LEAD = {
    "business_name": "Barber Maju Jaya",
    "contact_name": "Andi Saputra",
    "phone_whatsapp": "0812-3456-7890",
    "city": "Medan",
    "salon_type": "BARBER",
    "consent": True,
    "email": "andi@example.com",
    "message": "Tertarik bermitra.\nMohon info harga.",
}

# Every text differs, or compression would flatter.
LEADS = """
insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp, city,
  salon_type, email, message, locale, consent_at, consent_version, consent_locale, consent_sha256,
  ip_address, user_agent, identity, same_until, body_sha256, journaled)
select gen_random_uuid(), 'ALFA-' || lpad(upper(to_hex(i)), 9, '0'), at, business_name || ' ' || i,
  contact_name || ' ' || md5(i::text), '+628' || lpad(i::text, 10, '0'), city, salon_type,
  md5(i::text) || '@example.com', message || ' ' || md5((-i)::text), locale, at, consent_version,
  consent_locale, consent_sha256, ip_address, user_agent, sha256(i::text::bytea),
  at + interval '24 hours', sha256((-i)::text::bytea), true
from generate_series(1, %(n)s) as i,
  lateral (select now() - interval '2 years' + i * interval '1 minute' as at) as a,
  (select * from leads limit 1) as one
"""

MAILS = """
insert into outbox (lead_id, kind, sender, recipients, subject, body_text, body_html, created_at,
  attempts, first_attempt_at, next_attempt_at, sent_at, provider_id)
select lead.id, one.kind, one.sender, one.recipients, one.subject || ' ' || lead.ref,
  one.body_text || lead.business_name, one.body_html || lead.contact_name, lead.created_at, 1,
  lead.created_at, lead.created_at, lead.created_at, gen_random_uuid()::text
from (select * from leads where not canary and ref <> %(ref)s limit %(n)s) as lead,
  (select o.* from outbox as o join leads as l on l.id = o.lead_id where l.ref = %(ref)s) as one
"""

SIZE = "select pg_size_pretty(pg_database_size(current_database()))"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench restore")
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument("--mails", type=int, help="of so many leads (default: of all)")
    options = parser.parse_args(arguments)
    mails: int = options.leads if options.mails is None else options.mails
    with (
        tempfile.TemporaryDirectory() as data,
        Platform(ROOT, Path(data) / "platform", durable=False, environ=NO_RATE_LIMITS) as platform,
    ):
        _fill(platform, options.leads, mails)
        return _measure(platform, Path(data), options.leads)


def _fill(platform: Platform, leads: int, mails: int) -> None:
    started = time.monotonic()
    ref = _post(platform, 0)
    with psycopg.connect(platform.admin_database_url, autocommit=True) as admin:
        while admin.execute("select 1 from outbox where sent_at is null").fetchone():
            time.sleep(0.05)
        admin.execute(LEADS, {"n": leads - 1})
        admin.execute(MAILS, {"n": mails - 1, "ref": ref})
        admin.execute("analyze")
        row = admin.execute(SIZE).fetchone()
    print(f"{leads:,} leads, the mails of {mails:,}: {row and row[0]} in Postgres,"
          f" filled in {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip


def _post(platform: Platform, number: int) -> str:
    lead = {**LEAD, "message": f"Nomor {number}"}
    answer = httpx.post(f"{platform.url}/api/leads", json=lead, timeout=20)
    answer.raise_for_status()
    ref: str = answer.json()["ref"]
    return ref


def _measure(platform: Platform, folder: Path, leads: int) -> int:
    environ = {**platform.environment, "BACKUP_DIRECTORY": str(folder / "backups")}
    _, backed_up = _ops(environ, "backup")
    print(f"backup: {backed_up['took_s']:,.0f} s, {backed_up['bytes'] / 1e6:,.0f} MB sealed,"
          f" {backed_up['rows']:,} rows", flush=True)  # fmt: skip
    accepted = {_post(platform, number) for number in range(1, AFTER + 1)}
    _ops(environ, "subject", "erase", "--email", ERASED, "--yes")
    time.sleep(2)  # the journal is written after the answer
    with psycopg.connect(platform.admin_database_url, autocommit=True) as admin:
        admin.execute("drop schema public cascade")
    address = conninfo_to_dict(platform.admin_database_url)
    target = f"{address['host']}/{address['dbname']}"
    confirmations = ("--yes-replace", target, "--yes-erase", "--yes-open")
    status, done = _ops(environ, "restore", "--state", str(folder / "restore.json"), *confirmations)
    for step in done["steps"]:
        print(f"  {step['name']:<12}{step['verdict']:<18}{step['took_s']:8.1f} s")
    with psycopg.connect(platform.admin_database_url) as admin:
        there = {row[0] for row in admin.execute("select ref from leads")}
        back = admin.execute("select from leads where email = %s", [ERASED]).fetchall()
    print(
        f"RTO {done.get('rto_s', 0):,.0f} s of 3,600; {len(there):,} leads of {leads + AFTER - 1:,}"
    )
    print(f"accepted after the backup and missing: {len(accepted - there)}", end="; ")
    print(f"erased and there again: {len(back)}")
    return status


def _ops(environ: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "ops.cli", *arguments, "--json"]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.PIPE, check=False
    )
    printed: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, printed
