"""The sales desk: a search among 100,000 leads, and a million of them into an Excel file.

`python3 -m dev bench leads [--leads N] [--search-leads N]`. A scratch server; the commands are run
as a person runs them, so that their start counts too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from dev.bootstrap import ROOT
from dev.platform import migrations
from dev.platform.postgres import Postgres

PASSWORD = "bench"
SEARCHES = (
    "Ma'ruf 77",
    "alfa 00BEEF",
    "0812 3456-7890",
    "+65 9123 4567",
    "keratin",
    "zz",
    "tidak ada",
)

# Every text differs; the campaign's id has 18 digits.
FILL = """
insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp, city,
  salon_type, email, message, locale, consent_at, consent_version, consent_locale, utm_source,
  utm_campaign, ip_address, user_agent, identity, same_until, body_sha256)
select gen_random_uuid(), 'ALFA-' || lpad(upper(to_hex(i)), 6, '0'), at, 'Salon Ma’ruf ' || i,
  'Ibu ' || initcap(left(translate(md5(i::text), '0123456789', 'aiueorstnm'), 8)),
  '+628' || lpad(i::text, 10, '0'),
  (array['Jakarta', 'Medan', 'Surabaya', 'Bandung', 'Makassar'])[1 + i %% 5], 'SALON',
  md5(i::text) || '@example.com',
  'Halo, saya ingin tahu harga pewarna rambut dan keratin untuk salon kami. ' || md5((-i)::text),
  'id', at, '2026-11', 'id', 'facebook', 120000000000000000 + i, '203.0.113.7', 'Mozilla/5.0',
  sha256(i::text::bytea), at + interval '1 day', ''
from generate_series(%(first)s::integer, %(last)s::integer) as i,
  lateral (select now() - interval '2 years' + i * interval '1 minute' as at) as moment
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench leads")
    parser.add_argument("--leads", type=int, default=1_000_000, help="of the Excel file")
    parser.add_argument("--search-leads", type=int, default=100_000, help="of the search")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(Path(folder) / "postgres", PASSWORD, durable=False)
        try:
            admin = server.dsn("bench")
            migrations.ensure_database(server.dsn("postgres"), "bench")
            migrations.apply(admin, ROOT / "supabase" / "migrations")
            migrations.ensure_login(admin, "bench", "alfa_app", PASSWORD)
            environ = {**os.environ, "DATABASE_URL": server.dsn("bench", "bench", PASSWORD)}
            _fill(admin, 1, options.search_leads)
            _measure_search(environ, options.search_leads)
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute("drop index leads_by_words")  # filling it takes ten minutes
            _fill(admin, options.search_leads + 1, options.leads)
            _measure_export(environ, Path(folder) / "leads.xlsx")
        finally:
            server.close()
    return 0


def _fill(admin: str, first: int, last: int) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("set statement_timeout = 0")
        connection.execute(FILL, {"first": first, "last": last})
        connection.execute("vacuum analyze leads")


def _measure_search(environ: dict[str, str], leads: int) -> None:
    for text in SEARCHES:
        started = time.monotonic()
        rows = _ops(environ, "leads", "search", "--json", "--", text)
        took_s = time.monotonic() - started
        print(f"{text!r} among {leads:,}: {len(rows)} rows, {took_s:.2f} s", flush=True)


def _measure_export(environ: dict[str, str], file: Path) -> None:
    facts = _ops(environ, "leads", "export", str(file), "--json")
    print(
        f"{facts['rows']:,} leads into Excel: {facts['took_s']} s, {facts['bytes'] / 1e6:,.0f} MB,"
        f" {facts['sheets']} sheets, {facts['memory_mb']} MB of memory at most"
    )


def _ops(environ: dict[str, str], *arguments: str) -> Any:
    command = [sys.executable, "-m", "ops.cli", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, check=False)
    return json.loads(result.stdout)
