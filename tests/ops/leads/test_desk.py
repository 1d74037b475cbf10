"""The sales desk: search, leads without an answer, counts, the Excel file."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow

from dev import tools
from dev.platform.local_platform import Platform
from lib.leads import export
from ops import cli
from ops.leads import counts, desk, queries, spreadsheet
from tests.conftest import ROOT, both_majors, eventually

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

INSERT = """
insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp, city,
  salon_type, email, message, chair_count, utm_campaign, locale, consent_at, consent_version,
  consent_locale, identity, same_until, body_sha256)
values (gen_random_uuid(), %(ref)s, now() - %(age)s::interval, %(business)s, 'Sari', %(phone)s,
  %(city)s, 'SALON', %(email)s, %(message)s, %(chairs)s, %(campaign)s, 'id', now(), '2026-11', 'id',
  sha256(%(ref)s::text::bytea), now(), '')
"""

MANY = """
insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp, city,
  salon_type, message, locale, consent_at, consent_version, consent_locale, identity, same_until,
  body_sha256)
select gen_random_uuid(), 'ALFA-' || lpad(i::text, 8, '0'), at, 'Salon ' || md5(i::text), 'Sari',
  '+62812' || lpad(i::text, 8, '0'), 'Medan', 'SALON', 'Pesan ' || md5((-i)::text), 'id', at,
  '2026-11', 'id', sha256(i::text::bytea), at, ''
from generate_series(1, %(n)s::integer) as i,
  lateral (select now() - i * interval '1 minute' as at) as moment
"""


def insert(database: Rows, ref: str = "ALFA-RMJ82", **fields: object) -> None:
    defaults = {"age": "1 hour", "business": "Salon", "phone": "+6281234567890", "city": "Medan",
                "email": None, "message": None, "chairs": None, "campaign": None}  # fmt: skip
    database.execute(INSERT, {"ref": ref, **defaults, **fields})


def ops(platform: Platform, *arguments: str) -> int:
    return cli.main(list(arguments), dict(platform.environment))


def printed_json(platform: Platform, printed: Printed, *arguments: str) -> Any:
    printed.readouterr()
    ops(platform, *arguments[:2], "--json", *arguments[2:])
    return json.loads(printed.readouterr().out)


# ------------------------------------------------------------------ search


@both_majors
@pytest.mark.parametrize(
    ("stored", "texts"),
    [
        ({"business": "Salon Ma’ruf  Jaya"}, ["Ma'ruf", "ma´ruf", "MARUF  jaya", "salon  ma`ruf"]),
        ({"business": "Café Señorita"}, ["cafe senorita", "Cafe\u0301", "CAFÉ", "café  señorita"]),
        ({"business": "Rambut – Kuku"}, ["rambut-kuku", "Rambut — Kuku", "rambutkuku"]),
        ({"business": "美容サロン"}, ["美容", "サロン"]),
        ({"ref": "ALFA-RMJ82"}, ["ALFA RMJ82", "alfa-rmj82", "alfarmj82", "rmj82", "ALFA – RMJ82"]),
        ({"email": "sari.dewi@example.com"}, ["Sari.Dewi@Example.com", "sari dewi"]),
        ({"message": "Ingin\nharga  “keratin”"}, ["ingin harga", 'harga "keratin"']),
        ({"message": "telepon 0813-5555 1234"}, ["081355551234", "+62 813 5555 1234"]),
        (
            {"phone": "+6281234567890"},
            ["0812 3456-7890", "+62 812 3456 7890", "6281234567890", "(0812) 3456.7890",
             "3456 7890", "０８１２３４５６", "WA: 0812-3456-7890", "0062 812 3456 7890",
             "https://wa.me/6281234567890"],
        ),
        ({"phone": "+6591234567"}, ["+65 9123 4567", "0065 91234567", "6591234567", "9123-4567"]),
    ],
)  # fmt: skip
def test_a_search_finds_every_spelling(
    platform: Platform, database: Rows, capsys: Printed, stored: dict[str, Any], texts: list[str]
) -> None:
    insert(database, "ALFA-99999", phone="+6282200001111", business="Lain", message="apa saja")
    insert(database, **stored)
    for text in texts:
        rows = printed_json(platform, capsys, "leads", "search", "--", text)
        assert [row["ref"] for row in rows] == ["ALFA-RMJ82"], text


def test_a_text_without_letters_is_refused_and_a_percent_sign_is_no_pattern(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    insert(database)
    for text in ("--", "%%", "“ ”", "!"):
        assert ops(platform, "leads", "search", "--", text) == 2, text
    assert ops(platform, "leads", "search", "sa%on") == 1
    assert ops(platform, "leads", "search", "sa_on") == 1


SEARCH = {"key": "", "digits": "", "numbers": [], "limit": 51, "since": None}


@both_majors
def test_no_search_reads_the_leads_from_end_to_end(platform: Platform, database: Rows) -> None:
    database.execute(MANY, {"n": 5000})
    database.execute("analyze leads")
    plans: list[tuple[str, dict[str, object]]] = [
        (queries.SEARCH_LEADS, {**SEARCH, "key": "maruf"}),
        (queries.SEARCH_LEADS, {**SEARCH, "key": "08123456", "digits": "8123456",
                                "numbers": ["+628123456"]}),
        (desk.LIST_UNANSWERED, {"city": None, "limit": 50}),
    ]  # fmt: skip
    for statement, values in plans:
        assert "Seq Scan on leads" not in explain(database, statement, values)
    for settings, values in (
        (queries.BY_TIME_OR_WORDS, {**SEARCH, "key": "ma"}),
        (queries.BY_TIME, {**SEARCH, "key": "maruf", "since": datetime.now(UTC)}),
    ):
        with database.transaction():
            database.execute(settings.encode())
            plan = explain(database, queries.SEARCH_LEADS, values)
        assert "Index Scan using leads_by_time" in plan


def test_a_search_among_many_finds_the_newest_and_what_only_older_leads_hold(
    platform: Platform, database: Rows, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "NEWEST_LEADS", 2)
    insert(database, "ALFA-22222", age="3 days", message="keriting dan keratin")
    for ref, age in (("ALFA-33333", "2 days"), ("ALFA-44444", "1 day"), ("ALFA-55555", "1 hour")):
        insert(database, ref, age=age, message="keratin")
    rows = printed_json(platform, capsys, "leads", "search", "keratin", "--limit", "1")
    assert [row["ref"] for row in rows] == ["ALFA-55555"]
    rows = printed_json(platform, capsys, "leads", "search", "keratin", "--limit", "3")
    assert [row["ref"] for row in rows] == ["ALFA-55555", "ALFA-44444", "ALFA-33333"]
    rows = printed_json(platform, capsys, "leads", "search", "keriting")
    assert [row["ref"] for row in rows] == ["ALFA-22222"]


def explain(database: Rows, statement: str, values: dict[str, object]) -> str:
    with psycopg.ClientCursor(database) as cursor:
        return str(cursor.execute(f"explain {statement}".encode(), values).fetchall())


def test_a_reference_is_shown_however_it_is_written(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    insert(database)
    for text in ("ALFA-RMJ82", "alfa rmj82", "rmj82"):
        assert ops(platform, "leads", "show", text) == 0, text


# ------------------------------------------------------------------ waiting, done


def test_leads_without_an_answer_are_listed_oldest_first_until_they_are_done(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    insert(database, "ALFA-22222", age="10 minutes")
    insert(database, "ALFA-33333", age="3 days 4 hours", message="Mohon\nharga", chairs=6)
    for ref, review in (("ALFA-44444", "flood"), ("ALFA-55555", "dismissed")):
        insert(database, ref)
        database.execute("update leads set review = %s where ref = %s", [review, ref])
    insert(database, "ALFA-66666")
    database.execute("update leads set canary = true where ref = 'ALFA-66666'")
    document = printed_json(platform, capsys, "leads", "waiting")
    assert [lead["ref"] for lead in document["leads"]] == ["ALFA-33333", "ALFA-22222"]
    assert (document["unanswered"], document["in_review"]) == (2, 1)
    assert document["leads"][0]["chat"].startswith("https://wa.me/6281234567890?text=Halo%20Sari")
    assert document["leads"][0]["age_h"] == pytest.approx(76, abs=0.2)
    assert ops(platform, "leads", "waiting") == 0
    shown = capsys.readouterr().out
    assert "ALFA-33333  3 d 4 h" in shown
    assert "https://wa.me/6281234567890\n            Mohon\n            harga" in shown
    assert "ops review list" in shown

    assert ops(platform, "leads", "done", "alfa 33333", "--by", "rina") == 0
    assert "ALFA-33333  Salon, Medan: answered" in capsys.readouterr().out
    [before] = database.execute("select * from leads where ref = 'ALFA-33333'").fetchall()
    assert ops(platform, "leads", "done", "ALFA-33333", "--by", "budi") == 0
    assert "answered already" in capsys.readouterr().out
    [after] = database.execute("select * from leads where ref = 'ALFA-33333'").fetchall()
    assert after == before, "twice is harmless"
    document = printed_json(platform, capsys, "leads", "waiting")
    assert [lead["ref"] for lead in document["leads"]] == ["ALFA-22222"]

    assert ops(platform, "leads", "done", "33333", "--undo") == 0
    assert "waits again" in capsys.readouterr().out
    document = printed_json(platform, capsys, "leads", "waiting")
    assert [lead["ref"] for lead in document["leads"]] == ["ALFA-33333", "ALFA-22222"]


def test_a_reference_of_no_lead_is_named_and_the_others_are_marked(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    insert(database)
    assert ops(platform, "leads", "done", "ALFA-QQQQQ", "ALFA-RMJ82") == 1
    assert "there is no lead ALFA-QQQQQ" in capsys.readouterr().err
    assert ops(platform, "leads", "waiting") == 0
    assert "every lead is answered" in capsys.readouterr().out


def test_a_lead_that_is_corrected_after_the_mark_waits_again(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    insert(database)
    ops(platform, "leads", "done", "RMJ82")
    database.execute("update leads set corrected_at = answered_at + interval '1 second'")
    document = printed_json(platform, capsys, "leads", "waiting")
    assert [lead["ref"] for lead in document["leads"]] == ["ALFA-RMJ82"]
    ops(platform, "leads", "done", "RMJ82")
    assert printed_json(platform, capsys, "leads", "waiting")["leads"] == []


# ------------------------------------------------------------------ counts


def test_leads_are_counted_by_day_in_jakarta_by_city_and_by_campaign(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    for number, (city, campaign) in enumerate(
        [("Medan", "promo"), ("medan ", "promo"), ("Medan", None), ("Jakarta", "")]
    ):
        insert(database, f"ALFA-2222{number + 2}", city=city, campaign=campaign)
    # 23:30 and 00:30 in Jakarta are one day in UTC.
    midnight = "(date_trunc('day', now() at time zone 'Asia/Jakarta') at time zone 'Asia/Jakarta')"
    database.execute(
        f"update leads set created_at = {midnight} + interval '1 microsecond'".encode()
    )
    database.execute(
        f"update leads set created_at = {midnight} - interval '30 minutes'"
        " where ref = 'ALFA-22222'".encode()
    )
    by_day = printed_json(platform, capsys, "leads", "counts", "--by", "day", "--days", "3")
    assert [row["leads"] for row in by_day["counts"]] == [0, 1, 3]
    by_city = printed_json(platform, capsys, "leads", "counts", "--by", "city")
    assert by_city["counts"] == [{"name": "Medan", "leads": 3}, {"name": "Jakarta", "leads": 1}]
    by_campaign = printed_json(platform, capsys, "leads", "counts", "--by", "campaign")
    assert by_campaign["counts"] == [{"name": "(none)", "leads": 2}, {"name": "promo", "leads": 2}]
    assert ops(platform, "leads", "counts", "--by", "city") == 0
    assert "75%" in capsys.readouterr().out


@pytest.mark.parametrize("by", list(counts.STATEMENTS))
def test_counts_are_drawn_whatever_the_names_hold(
    platform: Platform, database: Rows, tmp_path: Path, by: str
) -> None:
    names = ["$x^2$ promo", "美容", "a" * 80, *(f"Kota {n}" for n in range(25))]
    for number, name in enumerate(names):
        insert(database, f"ALFA-{number:05}", city=name, campaign=name)
    file = tmp_path / "leads.png"
    assert ops(platform, "leads", "counts", "--by", by, "--plot", str(file)) == 0
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height > 600) == (1500, True)
    assert [path.name for path in tmp_path.iterdir()] == ["leads.png"]


def test_a_picture_is_a_png_and_matplotlib_is_loaded_for_it_alone(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "leads", "counts", "--plot", "leads.pdf") == 2
    assert "ends in .png" in capsys.readouterr().err
    code = (
        "import sys, ops.leads.counts, ops.leads.spreadsheet;"
        "print([name for name in ('matplotlib', 'xlsxwriter') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert result.stdout.strip() == b"[]"


# ------------------------------------------------------------------ the Excel file


def cells(file: Path, folder: Path) -> list[list[list[str]]]:
    """The rows of every sheet, as LibreOffice reads them."""
    command: list[str | Path] = [
        tools.ensure_office(),
        f"-env:UserInstallation={(folder / 'profile').as_uri()}",
        "--headless",
        "--convert-to",
        "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true,false,false,false,-1",
        *("--outdir", folder / "out", file),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    sheets = sorted((folder / "out").glob("*.csv"), key=lambda path: (len(path.name), path.name))
    assert sheets, result.stderr
    read: list[list[list[str]]] = []
    for sheet in sheets:
        with sheet.open(encoding="utf-8", newline="") as text:
            read.append(list(csv.reader(text)))
    return read


TEXTS = {
    "message": "=1+1", "specialization": "007", "current_brands_used": "@SUM(A1)",
    "monthly_spend_range": "1.500.000,50", "page_url_initial": "https://alfabeauty.co.id/?a=1&b=<2>",
    "referrer": "<r><t>x</t></r>", "utm_source": "120210000000000123", "utm_medium": "2026-11-29",
    "utm_campaign": " -2+3 ", "utm_term": "_x0041_", "utm_content": "1E5", "city": "MARCH 1",
    "business_name": "Ñandú “é” 你好 💇; \"kutip\", koma", "contact_name": "baris\nbaris\t<b>&amp;",
    "user_agent": "'quoted", "consent_version": "TRUE",
}  # fmt: skip


def test_every_cell_arrives_in_libreoffice_as_it_was(
    platform: Platform, database: Rows, capsys: Printed, tmp_path: Path
) -> None:
    insert(database, chairs=6)
    columns = ", ".join(f"{name} = %({name})s" for name in TEXTS)
    database.execute(f"update leads set {columns}".encode(), TEXTS)
    insert(database, "ALFA-22222", age="2 hours")
    file = tmp_path / "leads.xlsx"
    assert ops(platform, "leads", "export", str(file)) == 0
    assert "2 leads in 1 sheet" in capsys.readouterr().out
    [[header, row, other]] = cells(file, tmp_path)
    assert header == list(export.COLUMNS)
    shown = dict(zip(header, row, strict=True))
    with psycopg.connect(platform.admin_database_url) as connection:
        [stored] = export.fetch_batch(lambda work, **_: work(connection), export.FROM_NEWEST, 1)
    expected = {name: value or "" for name, value in zip(header, stored, strict=True)}
    assert shown == expected
    assert (shown["phone"], shown["specialization"], shown["chair_count"]) == (
        "+6281234567890", "007", "6",
    )  # fmt: skip
    assert other[header.index("ref")] == "ALFA-22222"
    assert file.stat().st_mode & 0o077 == 0, "for its owner alone"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leads.xlsx", "out", "profile"]


def row_of(**fields: str) -> tuple[str | None, ...]:
    return tuple(fields.get(name) for name in export.COLUMNS)


@pytest.fixture
def sheets(tmp_path: Path) -> Iterator[spreadsheet.LeadSheets]:
    made = spreadsheet.LeadSheets(tmp_path / "leads.xlsx", rows_per_sheet=4)
    yield made
    made.abandon()


def test_full_sheets_and_texts_that_a_cell_cannot_hold_are_handled(
    sheets: spreadsheet.LeadSheets, tmp_path: Path
) -> None:
    whole = "💇" * (spreadsheet.MAX_CELL_UNITS // 2)
    messages = ["a\x07b\x1b", "x" * 40_000, whole, "💇" * 20_000, "e", "f", "g"]
    for message in messages:
        sheets.add(row_of(message=message))
    sheets.finish()
    assert (sheets.rows, sheets.sheets, sheets.cut_cells, sheets.replaced_cells) == (7, 3, 2, 1)
    read = cells(tmp_path / "leads.xlsx", tmp_path)
    assert [len(sheet) for sheet in read] == [4, 4, 2], "each with its header"
    assert all(sheet[0] == list(export.COLUMNS) for sheet in read)
    column = export.COLUMNS.index("message")
    texts = [row[column] for sheet in read for row in sheet[1:]]
    assert texts[0] == "a␇b␛"
    assert texts[1].startswith("xxx")
    assert texts[1].endswith(spreadsheet.CUT_MARK)
    assert len(texts[1]) == spreadsheet.MAX_CELL_UNITS
    assert texts[2] == whole
    assert texts[3].endswith(f"💇{spreadsheet.CUT_MARK}")
    assert texts[4:] == ["e", "f", "g"]


def test_a_killed_export_leaves_no_half_file_and_the_next_removes_what_it_left(
    platform: Platform, database: Rows, tmp_path: Path
) -> None:
    insert(database)
    file = tmp_path / "leads.xlsx"
    command = [sys.executable, "-m", "ops.cli", "leads", "export", str(file)]
    environ = {**os.environ, **platform.environment}
    with closing(psycopg.connect(platform.admin_database_url)) as blocker:
        blocker.execute("lock table leads in access exclusive mode")
        with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL) as process:
            [leftover] = eventually(lambda: list(tmp_path.glob(".leads.xlsx.*.part/*")), 60)
            process.send_signal(signal.SIGKILL)
    assert leftover.exists()
    assert not file.exists()
    assert ops(platform, "leads", "export", str(file)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["leads.xlsx"]


def test_a_file_that_is_there_is_replaced_only_after_a_question(
    platform: Platform, database: Rows, capsys: Printed, tmp_path: Path
) -> None:
    file = tmp_path / "leads.xlsx"
    file.write_text("mine")
    assert ops(platform, "leads", "export", str(file)) == 2
    assert file.read_text() == "mine"
    assert ops(platform, "leads", "export", str(file), "--yes") == 0
    assert file.read_bytes().startswith(b"PK")
    assert ops(platform, "leads", "export", str(tmp_path / "leads.csv")) == 2
    assert "ends in .xlsx" in capsys.readouterr().err
