"""GET /api/leads/export: whole, in order, paged, harmless to a spreadsheet, for operators alone."""

import csv
import io
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev import tools
from dev.edge.runtime import Function
from dev.faults.fault_proxy import FaultProxy
from dev.platform.local_platform import Platform
from lib import services, settings
from lib.leads import export
from lib.leads.export import ExportQuery, Progress, ResultSize
from tests.conftest import LEAD, eventually

type Rows = psycopg.Connection[DictRow]

PATH = "/api/leads/export"
FIRST = (
    "id,created_at,name,phone,email,message,business_name,salon_type,chair_count,specialization,"
    "current_brands_used,monthly_spend_range,city,ip_address,page_url_current,"
)

MANY = """
insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp, city,
  salon_type, email, message, locale, consent_at, consent_version, consent_locale, identity,
  same_until, body_sha256)
select gen_random_uuid(), 'ALFA-' || lpad(i::text, 8, '0'), at, 'Salon ' || i, 'Sari',
  '+62812' || lpad(i::text, 8, '0'), 'Medan', 'SALON', 'sari' || i || '@example.com',
  'Pesan ' || i, 'id', at, '2026-11', 'id', decode(md5(i::text), 'hex'), at, ''
from generate_series(1, %(n)s) as i,
  lateral (select timestamptz '2026-01-01' + i / 3 * interval '1 second' as at) as moment
"""


@pytest.fixture
def token(platform: Platform) -> dict[str, str]:
    return {"Authorization": f"Bearer {platform.environment['LEADS_ADMIN_TOKEN']}"}


def rows_of(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def next_of(answer: httpx.Response) -> dict[str, str] | None:
    """The parameters of the page that follows."""
    address = answer.links.get("next", {}).get("url")
    if address is None:
        return None
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


def test_a_lead_is_exported_as_it_was_stored(
    site: httpx.Client, database: Rows, token: dict[str, str]
) -> None:
    site.post("/api/leads", json={**LEAD, "page_url_current": "https://alfabeauty.co.id/"})
    answer = site.get(PATH, headers=token)
    assert answer.text.startswith(FIRST)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    today = datetime.now(UTC).date()
    assert answer.headers["Content-Disposition"] == (
        f'attachment; filename="leads-export-{today}.csv"'
    )
    (row,) = rows_of(answer)
    (stored,) = database.execute("select * from leads").fetchall()
    assert row["id"] == str(stored["id"])
    assert datetime.fromisoformat(row["created_at"]) == stored["created_at"]
    assert row["name"] == "Andi Saputra"
    assert row["phone"] == "+6281234567890"
    assert row["email"] == "andi@example.com"
    assert row["message"] == "Tertarik bermitra.\nMohon info harga."
    assert row["chair_count"] == "6"
    assert row["ip_address"] == "127.0.0.1"
    assert row["page_url_current"] == "https://alfabeauty.co.id/"
    assert row["ref"] == stored["ref"]
    assert row["current_brands_used"] == ""


def test_the_header_is_the_same_when_there_is_nothing(
    site: httpx.Client, token: dict[str, str]
) -> None:
    answer = site.get(PATH, headers=token)
    assert answer.text == ",".join(export.COLUMNS) + "\n"
    assert answer.headers["X-Row-Count"] == "0"
    assert "Link" not in answer.headers


def test_every_lead_is_there_newest_first_across_batches(
    site: httpx.Client, database: Rows, token: dict[str, str]
) -> None:
    n = 2 * export.BATCH_ROWS + 7
    database.execute(MANY, {"n": n})
    answer = site.get(PATH, headers=token)
    rows = rows_of(answer)
    keys = [(row["created_at"], row["id"]) for row in rows]
    assert len(set(keys)) == n
    assert keys == sorted(keys, reverse=True)
    assert answer.headers["X-Row-Count"] == str(n)


def test_pages_follow_each_other_without_a_gap_though_many_came_at_the_same_moment(
    site: httpx.Client, database: Rows, token: dict[str, str]
) -> None:
    database.execute(MANY, {"n": 25})
    whole = [row["id"] for row in rows_of(site.get(PATH, headers=token))]
    params: dict[str, str] | None = {"limit": "5"}
    paged: list[str] = []
    pages = 0
    while params is not None:
        answer = site.get(PATH, params=params, headers=token)
        page = [row["id"] for row in rows_of(answer)]
        assert answer.headers["X-Row-Count"] == str(len(page)) == "5"
        paged += page
        pages += 1
        params = next_of(answer)
    assert (paged, pages) == (whole, 5)


def test_a_lead_that_comes_between_two_pages_moves_nothing(
    site: httpx.Client, database: Rows, token: dict[str, str]
) -> None:
    database.execute(MANY, {"n": 10})
    before = [row["id"] for row in rows_of(site.get(PATH, headers=token))]
    first = site.get(PATH, params={"limit": "4"}, headers=token)
    site.post("/api/leads", json=LEAD)
    second = site.get(PATH, params={**(next_of(first) or {}), "limit": "50"}, headers=token)
    assert [row["id"] for row in rows_of(first) + rows_of(second)] == before


def test_a_time_does_for_a_cursor(
    site: httpx.Client, database: Rows, token: dict[str, str]
) -> None:
    database.execute(MANY, {"n": 9})
    for moment in ("2026-01-01T00:00:02Z", "2026-01-01T07:00:02+07:00"):
        answer = site.get(PATH, params={"before": moment}, headers=token)
        assert len(rows_of(answer)) == 5, "seconds 0 (two of them) and 1 (three)"
    raw = site.get(f"{PATH}?before=2026-01-01T07:00:02+07:00", headers=token)
    assert len(rows_of(raw)) == 5, "an unquoted plus"


@pytest.mark.parametrize(
    ("query", "faulty"),
    [
        ("limit=0", {"limit"}),
        ("limit=-1", {"limit"}),
        ("limit=9x", {"limit"}),
        ("limit=" + "9" * 30, {"limit"}),
        ("before=yesterday", {"before"}),
        ("before=2026-01-01", {"before"}),
        ("before=2026-01-01T00:00:00Z_x", {"before"}),
        ("before=0001-01-01T00:00:00%2B09:00", {"before"}),
        ("limit=1&limit=2&offset=3", {"limit", "offset"}),
        ("before=x&limit=%20", {"before", "limit"}),
        ("excel=yes", {"excel"}),
        ("excel=1&excel=1", {"excel"}),
    ],
)
def test_a_malformed_query_is_refused_with_every_error(
    site: httpx.Client, token: dict[str, str], query: str, faulty: set[str]
) -> None:
    answer = site.get(f"{PATH}?{query}", headers=token)
    assert answer.status_code == 400
    assert answer.json()["error"] == "validation_error"
    assert set(answer.json()["details"]) == faulty


# ------------------------------------------------------------------ who may


def test_empty_parameters_are_as_if_left_out(site: httpx.Client, token: dict[str, str]) -> None:
    site.post("/api/leads", json=LEAD)
    whole = site.get(PATH, headers=token)
    answer = site.get(f"{PATH}?limit=&before=", headers=token)
    assert (answer.status_code, answer.text) == (200, whole.text)


def test_either_authorization_header_is_accepted_and_a_wrong_token_is_not(
    site: httpx.Client, platform: Platform
) -> None:
    right = platform.environment["LEADS_ADMIN_TOKEN"]
    assert site.get(PATH, headers={"X-Admin-Token": right}).status_code == 200
    assert site.head(PATH, headers={"Authorization": f"bearer {right}"}).status_code == 200
    wrong: list[dict[str, str]] = [
        {},
        {"X-Admin-Token": right[:-1]},
        {"X-Admin-Token": ""},
        {"X-Admin-Token": "é" * 40},
        {"Authorization": f"Basic {right}"},
        {"Authorization": "Bearer " + platform.environment["CRON_SECRET"]},
    ]
    for headers in wrong:
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        answer = site.get(PATH, headers=given)
        assert answer.status_code == 401, headers
        assert answer.json()["error"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_two_tokens_overlap_while_one_is_retired(platform: Platform, database: Rows) -> None:
    tokens = {"LEADS_ADMIN_TOKEN": "n" * 32, "LEADS_ADMIN_TOKEN_PREVIOUS": "o" * 32}
    with platform.function("api/leads_export.py", **tokens) as function:
        for token, status in (("n" * 32, 200), ("o" * 32, 200), ("x" * 32, 401), ("", 401)):
            answer = httpx.get(f"{function.url}{PATH}", headers={"X-Admin-Token": token})
            assert answer.status_code == status


@pytest.mark.parametrize("given", [None, "", "s" * 31], ids=["unset", "empty", "short"])
def test_a_missing_or_short_admin_token_is_a_503(
    platform: Platform, database: Rows, given: str | None
) -> None:
    with platform.function("api/leads_export.py", LEADS_ADMIN_TOKEN=given) as function:
        for presented in ("", given or "x"):
            headers = {"Authorization": f"Bearer {presented}".strip()}
            answer = httpx.get(f"{function.url}{PATH}", headers=headers)
            assert answer.status_code == 503
            assert answer.json()["error"] == "service_not_configured"


# ------------------------------------------------------------------ spreadsheets

HOSTILE = {
    "business_name": "=HYPERLINK(\"http://x.test\",\"klik\")",
    "contact_name": "@SUM(A1:A9)",
    "city": "-2+3",
    "specialization": "＝1+1",
    "current_brands_used": "+cmd|' /C calc'!A0",
    "monthly_spend_range": "5 juta;=1+1",
    "message": "Halo;=1+1;\"kutip\", koma\n=baris dua Ñandú é 你好",
}  # fmt: skip


def test_no_cell_begins_as_a_formula(site: httpx.Client, token: dict[str, str]) -> None:
    site.post("/api/leads", json={**LEAD, **HOSTILE})
    (row,) = rows_of(site.get(PATH, headers=token))
    for name, cell in row.items():
        if name != "phone":
            assert cell[:1] not in set("=+-@＝＋－＠\t\r"), name
    assert row["name"] == "'@SUM(A1:A9)"
    assert row["business_name"] == f"'{HOSTILE['business_name']}"
    assert row["message"] == HOSTILE["message"]
    assert row["phone"] == "+6281234567890", "digits behind a plus: no formula, and it is dialled"


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        (" =1", "' =1"),
        ("\t=1", "'\t=1"),
        ("\n-1", "'\n-1"),
        ("\u3000＋1", "'\u3000＋1"),
        (" a=1", " a=1"),
        ("a", "a"),
        ("1-2", "1-2"),
    ],
)
def test_a_formula_does_not_hide_behind_spaces(cell: str, safe: str) -> None:
    assert export.escape_formula(cell) == safe


def opened(file: Path, folder: Path) -> list[list[str]]:
    """The cells as LibreOffice reads the file, whose import dialog proposes UTF-8 and commas."""
    answer = subprocess.run(
        [
            tools.ensure_office(),
            f"-env:UserInstallation={(folder / 'profile').as_uri()}",
            "--headless",
            "--infilter=CSV:44/59/9,34,76",  # commas, semicolons and tabs, as its dialog ticks
            "--convert-to",
            "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,true",
            "--outdir",
            folder / "out",
            file,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    made = folder / "out" / file.name
    assert made.exists(), answer.stderr
    warnings = [line for line in answer.stderr.splitlines() if "javaldx" not in line]
    assert warnings == [], "LibreOffice warned"
    with made.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text))


def test_libreoffice_opens_it_with_every_text_in_its_cell_and_runs_nothing(
    site: httpx.Client, token: dict[str, str], tmp_path: Path
) -> None:
    site.post("/api/leads", json={**LEAD, **HOSTILE})
    answer = site.get(PATH, headers=token)
    file = tmp_path / "leads-export.csv"
    file.write_bytes(answer.content)
    header, row = opened(file, tmp_path)
    assert header == list(export.COLUMNS), "no byte order mark is wanted, and none is there"
    (sent,) = rows_of(answer)
    shown = dict(zip(header, row, strict=True))
    for name in HOSTILE:
        name = {"contact_name": "name"}.get(name, name)
        assert shown[name] == sent[name], name
    assert shown["phone"].lstrip("+") == "6281234567890"


def test_for_excel_it_has_a_byte_order_mark_and_semicolons(
    site: httpx.Client, database: Rows, token: dict[str, str], tmp_path: Path
) -> None:
    database.execute(MANY, {"n": 2})
    site.post("/api/leads", json={**LEAD, **HOSTILE})
    plain = site.get(PATH, headers=token)
    answer = site.get(PATH, params={"excel": "1"}, headers=token)
    assert answer.headers["X-Row-Count"] == "3"
    assert answer.content.startswith(b"\xef\xbb\xbfid;created_at;name;phone;")
    text = answer.content.decode("utf-8-sig")
    assert list(csv.DictReader(io.StringIO(text), delimiter=";")) == rows_of(plain)
    file = tmp_path / "leads-export.csv"
    file.write_bytes(answer.content)
    header, *rows = opened(file, tmp_path)
    assert (header, len(rows)) == (list(export.COLUMNS), 3)
    for value in ("", "0", "false"):
        assert site.get(PATH, params={"excel": value}, headers=token).content == plain.content
    page = site.get(PATH, params={"excel": "true", "limit": "2"}, headers=token)
    following = next_of(page) or {}
    assert following["excel"] == "1"
    rest = site.get(PATH, params=following, headers=token).content.decode("utf-8-sig")
    assert rest.startswith("id;created_at;")
    assert len(list(csv.DictReader(io.StringIO(rest), delimiter=";"))) == 1


# ------------------------------------------------------------------ streaming


@pytest.fixture
def proxy(platform: Platform) -> Iterator[FaultProxy]:
    port = urlsplit(platform.database_url).port
    assert port is not None
    with closing(FaultProxy("127.0.0.1", port)) as made:
        yield made


@pytest.fixture
def behind(platform: Platform, proxy: FaultProxy, database: Rows) -> Iterator[Function]:
    parts = urlsplit(platform.database_url)
    address = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}")
    with platform.function("api/leads_export.py", DATABASE_URL=address.geturl()) as function:
        yield function


@pytest.mark.measures_time
def test_the_first_rows_are_sent_before_the_last_are_read(
    behind: Function, proxy: FaultProxy, database: Rows, token: dict[str, str]
) -> None:
    database.execute(MANY, {"n": 8 * export.BATCH_ROWS})
    proxy.switch("slow", delay_s=0.02)
    started = time.monotonic()
    with httpx.stream("GET", f"{behind.url}{PATH}", headers=token, timeout=60) as answer:
        parts = answer.iter_bytes()
        first = next(parts)
        first_s = time.monotonic() - started
        rest = b"".join(parts)
    assert (first + rest).count(b"\n") == 8 * export.BATCH_ROWS + 1
    assert first_s < (time.monotonic() - started) / 2


def test_a_database_lost_half_way_is_reported_in_the_last_row(
    site: httpx.Client,
    behind: Function,
    proxy: FaultProxy,
    database: Rows,
    token: dict[str, str],
) -> None:
    n = 20 * export.BATCH_ROWS
    database.execute(MANY, {"n": n})
    with httpx.stream("GET", f"{behind.url}{PATH}", headers=token, timeout=60) as answer:
        assert answer.headers["X-Row-Count"] == str(n)
        parts, begun = answer.iter_bytes(), b""
        while begun.count(b"\n") < 2:
            begun += next(parts)
        proxy.switch("refuse")
        text = (begun + b"".join(parts)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    last = rows.pop()["id"]
    assert len(rows) < n
    assert last.startswith(f"INCOMPLETE: {len(rows)} of {n} rows (database); go on with before=")
    rest = site.get(PATH, params={"before": last.rpartition("=")[2]}, headers=token)
    assert len(rows) + len(rows_of(rest)) == n


def test_without_a_database_the_export_is_503(platform: Platform, token: dict[str, str]) -> None:
    gone = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"}
    with platform.function("api/leads_export.py", **gone) as function:
        answer = httpx.get(f"{function.url}{PATH}", headers=token)
    assert answer.status_code == 503
    assert answer.json()["error"] == "temporarily_unavailable"


def test_no_more_than_a_batch_is_held_however_slowly_it_is_read(
    platform: Platform, database: Rows
) -> None:
    database.execute(MANY, {"n": 5 * export.BATCH_ROWS})
    means = services.Services(settings.Settings(platform.environment))
    batches_read = 0

    def run(work: Any, *, budget_s: float) -> Any:
        nonlocal batches_read
        batches_read += 1
        return means.database.run(work, budget_s=budget_s)

    parts: Any = export.stream(run, ExportQuery(), ResultSize(0, None), Progress())
    next(parts)
    assert batches_read == 0, "the header waits for nothing"
    for part in range(1, 4):
        next(parts)
        assert batches_read == part, "a batch is read when the one before is taken"
    parts.close()
    means.close()


def test_the_log_says_how_many_rows_went_out_and_nothing_of_them(
    site: httpx.Client, platform: Platform, token: dict[str, str]
) -> None:
    site.post("/api/leads", json=LEAD)
    site.get(PATH, headers=token)

    def lines() -> list[str]:
        """the request's line"""
        messages = [str(line["message"]) for line in platform.logs()]
        return [line for line in messages if '"endpoint": "leads_export"' in line]

    (line,) = eventually(lines)
    assert '"rows": 1' in line
    assert "andi" not in line.lower()
