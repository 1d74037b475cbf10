"""The commands about leads and privacy: output, effect, refusals and exit status."""

import io
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.privacy import requests
from lib.services import Services
from lib.settings import Settings
from ops import cli
from tests.conftest import LEAD
from tests.privacy.person_data import (
    NO_REDIS,
    OTHER_PERSON,
    PERSON,
    count_rows,
    make_lead,
    personal_data_in,
    store_everywhere,
    store_lead,
)

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    with closing(Services(Settings(platform.environment))) as services:
        yield services


def ops(platform: Platform, *arguments: str, **changed: str) -> int:
    return cli.main(list(arguments), {**platform.environment, **changed})


def read_json(printed: Printed) -> Any:
    """What a command printed with --json."""
    return json.loads(printed.readouterr().out)


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


# ------------------------------------------------------------------ leads


def test_the_list_shows_leads_newest_first_in_local_time(
    platform: Platform, services: Services, capsys: Printed
) -> None:
    store_lead(services, make_lead(datetime(2026, 11, 23, 20, 0, tzinfo=UTC)))
    store_lead(
        services, make_lead(datetime(2026, 11, 24, 1, 0, tzinfo=UTC), **OTHER_PERSON, city="Binjai")
    )
    assert ops(platform, "leads", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["ref", "received", "business"]
    assert "2026-11-24 08:00" in lines[1]
    assert "2026-11-24 03:00" in lines[2]
    assert "Barber Maju Jaya" in lines[2]
    assert lines[2].endswith("0/2")
    assert ops(platform, "leads", "list", "--city", "binjai", "--json") == 0
    (only,) = read_json(capsys)
    assert only["business_name"] == "Lain"
    assert ops(platform, "leads", "list", "--type", "BRIDAL") == 1, "nothing to show"


def test_a_truncated_list_says_so(platform: Platform, services: Services, capsys: Printed) -> None:
    for number in range(3):
        store_lead(services, make_lead(message=f"{number}"))
    assert ops(platform, "leads", "list", "--limit", "2") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "There are more leads than 2" in printed.err
    assert ops(platform, "leads", "list", "--limit", "3") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text",
    [
        "maju",
        "ANDI",
        "andi@example",
        "0812-3456-7890",
        "+62 812 3456",
        "KERATIN",
        "harga",
        "0812–3456–7890",
        "008 62 812 3456 7890",
        "+62 62 812 3456 7890",
        "wa.me/6281234567890",
        "tel:+62-812-3456-7890",
        "٠٨١٢٣٤٥٦٧٨٩٠",
        "\u202a+62 812\u20113456\u20117890\u202c",
    ],
)
def test_a_lead_is_found_by_any_of_its_words_and_by_its_number(
    platform: Platform, services: Services, capsys: Printed, text: str
) -> None:
    store_lead(services, make_lead())
    store_lead(services, make_lead(**OTHER_PERSON, message="Lain", specialization=""))
    assert ops(platform, "leads", "search", text, "--json") == 0
    (row,) = read_json(capsys)
    assert row["phone_whatsapp"] == PERSON["phone"]


@pytest.mark.parametrize("text", ["+44 (0)20 7946 0958", "+44 20 7946 0958", "0044 20 7946 0958"])
def test_a_number_is_found_in_its_legacy_form_too(
    platform: Platform, services: Services, database: Rows, capsys: Printed, text: str
) -> None:
    store_lead(services, make_lead(phone_whatsapp="+44 20 7946 0958"))
    store_lead(services, make_lead(**OTHER_PERSON))
    store_lead(services, make_lead(message="Lain"))
    database.execute("update leads set phone_whatsapp = '+4402079460958' where message = 'Lain'")
    assert ops(platform, "leads", "search", text, "--json") == 0
    assert len(read_json(capsys)) == 2


def test_a_search_text_is_read_from_standard_input_and_a_short_one_is_refused(
    platform: Platform, services: Services, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_lead(services, make_lead())
    type_in(monkeypatch, "andi@example.com\n")
    assert ops(platform, "leads", "search", "-") == 0
    assert "Barber Maju" in capsys.readouterr().out
    assert ops(platform, "leads", "search", "x") == 2
    assert ops(platform, "leads", "search", "tidak ada") == 1
    assert ops(platform, "leads", "search", "100%' or 1=1") == 1


def test_a_lead_is_shown_with_the_state_of_its_mails(
    platform: Platform, services: Services, database: Rows, capsys: Printed
) -> None:
    lead = make_lead()
    store_lead(services, lead)
    database.execute("update outbox set sent_at = now() where kind = 'sales'")
    database.execute("update outbox set dead_at = now(), last_error = 'invalid_to'"
                     " where kind = 'acknowledgement'")  # fmt: skip
    for name in (lead.ref, lead.ref.lower(), str(lead.id)):
        assert ops(platform, "leads", "show", name) == 0
        out = capsys.readouterr().out
        assert "Andi Saputra" in out
        assert "https://wa.me/6281234567890" in out
        assert "sales: sent" in out
        assert "acknowledgement: GIVEN UP (invalid_to)" in out
    assert ops(platform, "leads", "show", lead.ref, "--json") == 0
    assert read_json(capsys)["message"] == LEAD["message"]
    assert ops(platform, "leads", "show", "ALFA-22222") == 1
    assert ops(platform, "leads", "show", "Andi") == 2


# ------------------------------------------------------------------ requests of people


def test_a_persons_data_is_shown_and_their_access_request_closed_by_hand(
    platform: Platform,
    services: Services,
    database: Rows,
    capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store_everywhere(services, database)
    type_in(monkeypatch, "andi@example.com\n")
    assert ops(platform, "subject", "register", "--kind", "access", "--email", "-", "--json") == 0
    number = read_json(capsys)["receipt"]
    assert ops(platform, "subject", "requests") == 0
    assert number in capsys.readouterr().out
    type_in(monkeypatch, "andi@example.com\n0812 3456 7890\n")
    assert ops(platform, "subject", "show", "--email", "-", "--phone", "-") == 0
    printed = capsys.readouterr()
    for place in ("leads: 1", "mails: 2", "spam: 1", "incident_notes: 1", "queue: 1",
                  "set_aside: 1", "journal: 1"):  # fmt: skip
        assert place in printed.out.splitlines()
    assert f"`ops subject answered {number}`" in printed.err
    assert "history" not in printed.err
    assert ops(platform, "subject", "requests") == 0
    assert number in capsys.readouterr().out, "an export changes nothing"
    assert ops(platform, "subject", "answered", number) == 0
    assert ops(platform, "subject", "answered", number) == 1
    capsys.readouterr()
    assert ops(platform, "subject", "requests", "--json") == 0
    assert read_json(capsys) == []


def test_with_redis_down_an_export_is_incomplete_and_closes_no_request(
    platform: Platform, services: Services, capsys: Printed
) -> None:
    store_lead(services, make_lead())
    assert ops(platform, "subject", "register", "--kind", "access", "--phone", PERSON["phone"]) == 0
    assert ops(platform, "subject", "show", "--phone", PERSON["phone"], **NO_REDIS) == 1
    assert "NOT SEARCHED, Redis cannot be used: queue" in capsys.readouterr().err
    assert len(requests.list_due(services.database.run, datetime.now(UTC),
                                        within=timedelta(days=9))) == 1  # fmt: skip


def test_a_person_is_erased_after_a_dry_run_until_every_instruction_is_done(
    platform: Platform,
    services: Services,
    database: Rows,
    capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lead = store_everywhere(services, database)
    type_in(monkeypatch, "0812-3456-7890\n")
    assert ops(platform, "subject", "erase", "--phone", "-", "--dry-run", "--json") == 0
    assert {line["place"]: line["count"] for line in read_json(capsys)["places"]}["leads"] == 1
    assert count_rows(database, "leads") == 1
    type_in(monkeypatch, "0812-3456-7890\nyes\n")
    asked_at = "2026-11-23T09:00:00+07:00"
    assert ops(platform, "subject", "erase", "--phone", "-", "--received-at", asked_at) == 0
    printed = capsys.readouterr()
    assert lead.ref in printed.err
    assert "A*** S***" in printed.err
    assert "Medan" in printed.err
    assert personal_data_in(printed.err) == []
    out = printed.out
    number = out.split()[0]
    assert number.startswith("ERASE-20261123-")
    assert f"sales_mailbox: {lead.ref}" in out
    assert "0812" not in out
    assert count_rows(database, "leads") == 0
    assert ops(platform, "subject", "done", number, "sales_mailbox") == 0
    assert ops(platform, "subject", "done", number, "sentry") == 0
    assert ops(platform, "subject", "done", number, "sentry") == 1
    capsys.readouterr()
    assert ops(platform, "subject", "receipt", number, "--json") == 0
    states = {line["place"]: line["state"] for line in read_json(capsys)["places"]}
    assert (states["sales_mailbox"], states["sentry"]) == ("done", "done")
    assert ops(platform, "subject", "receipt", "ERASE-20260101-00000000") == 1


def test_an_address_on_the_command_line_gives_a_warning(
    platform: Platform, services: Services, capsys: Printed
) -> None:
    assert ops(platform, "subject", "erase", "--email", "a@example.com", "--dry-run") == 0
    assert "history" in capsys.readouterr().err


def test_nobody_is_erased_by_incomplete_arguments(
    platform: Platform, services: Services, database: Rows, capsys: Printed
) -> None:
    store_lead(services, make_lead())
    assert ops(platform, "subject", "erase") == 2
    assert ops(platform, "subject", "erase", "--email", "andi") == 2
    assert ops(platform, "subject", "erase", "--email", PERSON["email"], ERASURE_KEY="") == 2
    assert "ERASURE_KEY" in capsys.readouterr().err
    assert ops(platform, "subject", "register", "--email", PERSON["email"], ERASURE_KEY="") == 2
    assert count_rows(database, "leads") == 1


@pytest.mark.parametrize(("answer", "status"), [("", 2), ("\n", 2), ("no\n", 1), ("y\n", 1)])
def test_nobody_is_erased_without_a_yes(
    platform: Platform,
    services: Services,
    database: Rows,
    capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
) -> None:
    store_lead(services, make_lead())
    type_in(monkeypatch, f"+62 812 3456 7890\n{answer}")
    assert ops(platform, "subject", "erase", "--phone", "-", "--json") == status
    printed = capsys.readouterr()
    assert "nothing was erased" in printed.err
    assert printed.out == ""
    assert count_rows(database, "leads") == 1


@pytest.mark.parametrize("number", ["819012345699", " 819012345699"])
def test_a_number_that_can_be_read_as_two_is_neither_erased_nor_registered(
    platform: Platform, services: Services, database: Rows, capsys: Printed, number: str
) -> None:
    store_lead(services, make_lead(phone_whatsapp="+62 819 0123 45699"))
    for verb in ("erase", "register"):
        assert ops(platform, "subject", verb, f"--phone={number}") == 2
        message = capsys.readouterr().err
        assert "+62819012345699" in message
        assert "+819012345699" in message
    assert ops(platform, "subject", "show", f"--phone={number}") == 0
    assert "it may mean" in capsys.readouterr().err
    assert count_rows(database, "leads") == 1
    assert count_rows(database, "erasure_requests") == 0


def test_an_export_and_a_dry_run_write_nothing(
    platform: Platform, services: Services, database: Rows, capsys: Printed
) -> None:
    store_everywhere(services, database)
    assert ops(platform, "subject", "register", "--kind", "access", "--phone", PERSON["phone"]) == 0

    def all_rows() -> list[Any]:
        names = database.execute("select tablename as n from pg_tables where schemaname = 'public'")
        return [
            database.execute(
                f"select t::text as t from {row['n']} as t order by 1".encode()
            ).fetchall()
            for row in names.fetchall()
        ]

    before = all_rows()
    assert ops(platform, "subject", "show", "--phone", PERSON["phone"], "--json") == 0
    assert ops(platform, "subject", "erase", "--phone", PERSON["phone"], "--dry-run") == 0
    assert all_rows() == before


def test_while_redis_is_down_the_receipt_lists_waiting_steps(
    platform: Platform, services: Services, capsys: Printed
) -> None:
    store_lead(services, make_lead())
    assert ops(platform, "subject", "erase", "--email", PERSON["email"], "--yes", **NO_REDIS) == 1
    assert "waiting" in capsys.readouterr().out


def test_an_overdue_request_makes_the_list_fail(
    platform: Platform, services: Services, capsys: Printed
) -> None:
    asked_at = (datetime.now(UTC) - timedelta(hours=73)).isoformat()
    assert ops(platform, "subject", "register", "--email", "a@example.com",
               "--received-at", asked_at) == 0  # fmt: skip
    assert ops(platform, "subject", "requests") == 1
    assert "OVERDUE" in capsys.readouterr().out


def test_tombstones_in_a_file_are_reapplied(
    platform: Platform, services: Services, database: Rows, capsys: Printed, tmp_path: Path
) -> None:
    lead = make_lead()
    store_lead(services, lead)
    ops(platform, "subject", "erase", "--email", PERSON["email"], "--yes")
    capsys.readouterr()
    assert ops(platform, "subject", "tombstones") == 0
    file = tmp_path / "tombstones.jsonl"
    file.write_text(tombstones := capsys.readouterr().out)
    assert personal_data_in(tombstones) == []
    database.execute("delete from erasure_tombstones")
    services.cache.execute("FLUSHALL")
    store_lead(services, lead)  # as a restored backup has it
    assert ops(platform, "subject", "replay", "--yes", "--json") == 0
    assert read_json(capsys)["leads"] == 0
    assert ops(platform, "subject", "replay", "--yes", str(file)) == 0
    assert "1 leads" in capsys.readouterr().out
    assert count_rows(database, "leads") == 0
    assert ops(platform, "subject", "replay", "--yes", **NO_REDIS) == 1
    assert ops(platform, "subject", "replay", "--yes", ERASURE_KEY="") == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"no json\n", "line 1 is no tombstone"),
        (b'\n{"mark": "a1"}\n', "line 2 is no tombstone"),
        (b"[1]\n", "line 1 is no tombstone"),
        (b'{"mark": "a1", "erased_at": "2026-11-24T03:00:00"}\n', "a time with its zone"),
        (b'{"mark": 7, "erased_at": "2026-11-24T03:00:00Z"}\n', "line 1 is no tombstone"),
        (b"\xff\xfe\n", "is no text in UTF-8"),
    ],
)
def test_a_file_that_holds_no_tombstones_is_refused_in_words_and_nothing_is_written(
    platform: Platform, services: Services, database: Rows, capsys: Printed, tmp_path: Path,
    text: bytes, message: str,
) -> None:  # fmt: skip
    file = tmp_path / "tombstones.jsonl"
    file.write_bytes(text)
    assert ops(platform, "subject", "replay", "--yes", str(file)) == 2
    error = capsys.readouterr().err
    assert error.startswith(str(file))
    assert message in error
    assert count_rows(database, "erasure_tombstones") == 0


def test_without_a_tombstone_the_export_says_so_and_json_is_one_document(
    platform: Platform, services: Services, capsys: Printed
) -> None:
    assert ops(platform, "subject", "tombstones") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "there is no tombstone" in printed.err
    assert ops(platform, "subject", "tombstones", "--json") == 0
    assert read_json(capsys) == []
    ops(platform, "subject", "erase", "--email", PERSON["email"], "--yes")
    capsys.readouterr()
    assert ops(platform, "subject", "tombstones", "--json") == 0
    assert {*read_json(capsys)[0]} == {"mark", "erased_at"}


# ------------------------------------------------------------------ retention


def test_ages_are_shown_and_a_late_class_makes_them_fail(
    platform: Platform, services: Services, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "retention", "ages") == 0
    store_lead(services, make_lead(datetime.now(UTC) - timedelta(days=92)))
    capsys.readouterr()
    assert ops(platform, "retention", "ages", "--json") == 1
    assert [age["name"] for age in read_json(capsys) if age["late"]] == ["origins"]
    assert ops(platform, "retention", "prune", "--dry-run", "--json") == 0
    ((name, oldest_at),) = read_json(capsys)["would_end"].items()
    assert name == "origins"
    assert oldest_at == datetime.fromisoformat(oldest_at).isoformat()
    assert ops(platform, "retention", "prune", "--yes", "--timeout", "0") == 1
    assert "not finished within 0 s: run the command again" in capsys.readouterr().err
    assert ops(platform, "retention", "prune", "--yes") == 0
    assert "1 rows deleted" in capsys.readouterr().out
    assert ops(platform, "retention", "ages") == 0


def test_personal_columns_are_listed_with_what_ends_them(
    platform: Platform, services: Services, capsys: Printed
) -> None:
    assert ops(platform, "retention", "columns") == 0
    out = capsys.readouterr().out
    assert "ip_address" in out
    assert "90 days" in out
    assert "1095 days" in out
