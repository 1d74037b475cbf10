"""A person is found in any notation; who may be someone else is neither shown nor erased."""

from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.leads import submission
from lib.privacy import data_subject
from lib.problems import ErasedSubject
from lib.services import Services
from ops.privacy import tombstone_replay
from tests.conftest import LEAD, both_majors
from tests.privacy.person_data import (
    BY_PHONE,
    NO_REDIS,
    OTHER_PERSON,
    PERSON,
    add_note,
    count_rows,
    dump_everything,
    enqueue_lead,
    lines,
    make_lead,
    now,
    store_everywhere,
    store_lead,
    store_spam,
)

type Rows = psycopg.Connection[DictRow]
type Headers = dict[str, str]

pytestmark = both_majors

PATH = "/api/leads/subject"


@pytest.mark.parametrize("by", [{"email": " Andi@EXAMPLE.com"}, {"phone": "0812-3456 7890"}])
def test_everything_held_about_a_person_is_shown_in_any_notation(
    site: httpx.Client,
    services: Services,
    database: Rows,
    operator: Headers,
    by: dict[str, str],
) -> None:
    lead = store_everywhere(services, database)
    store_lead(services, make_lead(**OTHER_PERSON))
    response = site.get(PATH, params=by, headers=operator)
    assert response.status_code == 200, response.text
    data = response.json()
    (row,) = data["leads"]
    assert (row["id"], row["message"]) == (str(lead.id), LEAD["message"])
    assert (row["ip_address"], row["user_agent"]) == ("203.0.113.7", "Mozilla/5.0")
    assert {mail["kind"] for mail in data["mails"]} == {"sales", "acknowledgement"}
    assert all("Barber Maju" in mail["body_text"] + mail["subject"] + str(mail["recipients"])
               or mail["kind"] == "acknowledgement" for mail in data["mails"])  # fmt: skip
    (spam,) = data["spam"]
    assert spam["submission"]["message"] == "Promo http://a http://b"
    assert [copy["submission"]["message"] for copy in data["queue"]] == ["Menunggu"]
    assert [copy["submission"]["message"] for copy in data["set_aside"]] == ["Disisihkan"]
    assert [copy["id"] for copy in data["journal"]] == [str(lead.id)]
    if "phone" in by:
        (note,) = data["incident_notes"]
        assert note["note"].startswith("Dihubungi")
    assert data["not_searched"] == []
    assert set(data["elsewhere"]) == {"sales_mailbox", "resend", "sentry", "logs", "backups"}
    assert "budi" not in response.text


def test_leads_that_share_only_the_number_are_counted_and_not_shown(
    site: httpx.Client, services: Services, operator: Headers
) -> None:
    store_lead(services, make_lead())
    store_lead(services, make_lead(email="rekan@example.com", message="Lain"))
    store_lead(services, make_lead(email="", message="Tanpa alamat"))
    by_email = site.get(PATH, params={"email": "andi@example.com"}, headers=operator).json()
    assert len(by_email["leads"]) == 1
    assert by_email["related_leads"] == 2
    both = site.get(PATH, params={"email": "andi@example.com", "phone": "081234567890"},
                    headers=operator).json()  # fmt: skip
    assert (len(both["leads"]), both["related_leads"]) == (3, 0)


def test_stores_that_could_not_be_searched_are_named(
    platform: Platform, services: Services, operator: Headers
) -> None:
    store_lead(services, make_lead())
    with platform.function("api/leads_subject.py", **NO_REDIS) as function:
        response = httpx.get(f"{function.url}{PATH}", params=PERSON, headers=operator, timeout=20)
        counted = httpx.delete(
            f"{function.url}{PATH}", params={**PERSON, "dry_run": "1"}, headers=operator, timeout=20
        )
    assert len(response.json()["leads"]) == 1
    assert response.json()["not_searched"] == ["queue", "set_aside", "journal"]
    places = {line["place"]: line["count"] for line in counted.json()["places"]}
    assert (places["leads"], places["queue"]) == (1, None)


def test_a_dry_run_counts_and_changes_nothing(
    site: httpx.Client,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
    operator: Headers,
) -> None:
    store_everywhere(services, database)

    def dump() -> str:
        return dump_everything(database, valkey, services, with_request_counters=False)

    before = dump()
    response = site.delete(
        PATH, params={"phone": PERSON["phone"], "dry_run": "1"}, headers=operator
    )
    assert response.json()["dry_run"] is True
    counts = {line["place"]: line["count"] for line in response.json()["places"]}
    assert counts == {"leads": 1, "mails": 2, "spam": 1, "incident_notes": 1,
                      "queue": 1, "set_aside": 1, "journal": 1}  # fmt: skip
    assert dump() == before


# ------------------------------------------------------------------ which number is meant

JAPAN, XL = "+819012345699", "+62819012345699"  # the same digits after a lost +


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("phone", "phone=+819012345699"),
        ("phone", "phone=%20819012345699"),
        ("phone", "phone=+81-90-1234-5699&dry_run=1"),
        ("phone", "phone=819012345699"),
        ("phone", "phone=+81 90 1234 5699&email=andi%40example.com"),
        ("email", "email=+andi@example.com"),
        ("email", "email=andi+salon@example.com"),
    ],
)
def test_a_value_that_may_have_lost_its_plus_erases_nobody(
    site: httpx.Client,
    services: Services,
    database: Rows,
    operator: Headers,
    field: str,
    query: str,
) -> None:
    store_lead(services, make_lead(phone_whatsapp=JAPAN))
    store_lead(services, make_lead(**{**OTHER_PERSON, "phone_whatsapp": XL}))
    response = site.delete(f"{PATH}?{query}", headers=operator)
    assert response.status_code == 400, response.text
    assert list(response.json()["details"]) == [field]
    if field == "phone":
        (message,) = response.json()["details"]["phone"]
        assert all(text in message for text in (JAPAN, XL, "%2B"))
    assert count_rows(database, "leads") == 2
    assert count_rows(database, "erasure_requests") == 0


@pytest.mark.parametrize(
    ("query", "erased", "other"),
    [
        ("phone=%2B819012345699", JAPAN, XL),
        # The plus is lost, and the number can be read in one way only.
        ("phone=+442079460958", "+442079460958", OTHER_PERSON["phone_whatsapp"]),
        ("phone=+6281234567890", "+6281234567890", OTHER_PERSON["phone_whatsapp"]),
    ],
)
def test_an_unambiguous_number_erases_only_its_owner(
    site: httpx.Client,
    services: Services,
    database: Rows,
    operator: Headers,
    query: str,
    erased: str,
    other: str,
) -> None:
    store_lead(services, make_lead(phone_whatsapp=erased))
    store_lead(services, make_lead(**{**OTHER_PERSON, "phone_whatsapp": other}))
    response = site.delete(f"{PATH}?{query}", headers=operator)
    assert response.status_code == 200, response.text
    (row,) = database.execute("select phone_whatsapp from leads").fetchall()
    assert row["phone_whatsapp"] == other


def test_an_export_names_the_other_numbers_that_may_be_meant(
    site: httpx.Client, services: Services, operator: Headers
) -> None:
    store_lead(services, make_lead(phone_whatsapp=JAPAN))
    store_lead(services, make_lead(**{**OTHER_PERSON, "phone_whatsapp": XL}))
    for query, read_as, other in (
        ("phone=+819012345699", JAPAN, [XL]),
        ("phone=819012345699", XL, [JAPAN]),
        ("phone=%2B819012345699", JAPAN, []),
    ):
        data = site.get(f"{PATH}?{query}", headers=operator).json()
        assert (data["subject"]["phone"], data["other_readings"]) == ([read_as], other)
        assert [row["phone_whatsapp"] for row in data["leads"]] == [read_as]


# Legacy forms: with a trunk zero, with 62 twice, with 008 read as 00.
LEGACY_NUMBERS = [
    ("+4402079460958", "+44 (0)20 7946 0958", "+442079460958"),
    ("+610412345678", "+61 412 345 678", "+61412345678"),
    ("+626281234567890", "0812 3456 7890", "+6281234567890"),
    ("+8628123456789", "008 62 812 3456 789", "+628123456789"),
]


@pytest.mark.parametrize(("legacy", "typed", "stored"), LEGACY_NUMBERS)
def test_a_number_stored_in_a_legacy_form_is_found_and_erased_for_good(
    site: httpx.Client,
    services: Services,
    database: Rows,
    valkey: redis.Redis,
    operator: Headers,
    legacy: str,
    typed: str,
    stored: str,
) -> None:
    def with_legacy_number(lead: Any) -> Any:
        return lead._replace(submission=lead.submission._replace(phone_whatsapp=legacy))

    restored = with_legacy_number(make_lead(email=""))
    store_lead(services, restored)
    store_lead(services, make_lead(phone_whatsapp=stored, email="", message="Lagi"))
    enqueue_lead(services, with_legacy_number(make_lead(email="", message="Menunggu")))
    store_spam(services, with_legacy_number(make_lead(email="", message="x")))
    add_note(database, "INC-20261124-0101-leads", f"Ditelepon: {typed} – benar")
    store_lead(services, make_lead(**OTHER_PERSON))

    data = site.get(PATH, params={"phone": typed}, headers=operator).json()
    assert {row["phone_whatsapp"] for row in data["leads"]} == {legacy, stored}
    assert (len(data["spam"]), len(data["queue"]), len(data["incident_notes"])) == (1, 1, 1)
    receipt = site.delete(PATH, params={"phone": typed}, headers=operator).json()
    counts = {place: count for place, (_, count) in lines(receipt).items()}
    assert (counts["leads"], counts["spam"], counts["incident_notes"]) == (2, 1, 1)
    assert counts["queue"] == 1
    assert legacy not in dump_everything(database, valkey, services)

    store_lead(services, restored)  # as a restored backup has it
    add_note(
        database, "INC-20261124-0101-leads", f"Ditelepon: {typed} – benar", restored.created_at
    )
    result = tombstone_replay.reapply(services, now())
    assert (result.leads, result.notes) == (1, 1)
    with pytest.raises(ErasedSubject):
        store_lead(services, restored, is_copy=True)
    (row,) = database.execute("select phone_whatsapp from leads").fetchall()
    assert row["phone_whatsapp"] == OTHER_PERSON["phone_whatsapp"]


def test_a_valid_number_is_not_read_as_the_legacy_form_of_another(
    site: httpx.Client, services: Services, database: Rows, operator: Headers
) -> None:
    """001 65 9234 5678 was stored as this American number, which may be its owner's."""
    store_lead(services, make_lead(phone_whatsapp="+16592345678"))
    assert site.delete(PATH, params={"phone": "+65 9234 5678"}, headers=operator).status_code == 200
    assert count_rows(database, "leads") == 1


def test_a_number_is_normalised_as_in_a_lead(services: Services) -> None:
    assert (
        data_subject.from_person(submission.parse_person({"phone": "0812 3456 7890"})) == BY_PHONE
    )


# ------------------------------------------------------------------ access and parameters


@pytest.mark.parametrize(
    ("method", "query", "fields"),
    [
        ("GET", "", {"_"}),
        ("GET", "email=&phone=", {"_"}),
        ("GET", "email=andi", {"email"}),
        ("GET", "phone=12", {"phone"}),
        ("GET", "email=andi@example.com&dry_run=1", {"dry_run"}),
        ("DELETE", "email=a@example.com&email=b@example.com", {"email"}),
        ("DELETE", "email=a@example.com&dry_run=maybe", {"dry_run"}),
        ("DELETE", "email=a@example.com&dry_run", {"dry_run"}),
        ("DELETE", "email=a@example.com&dry_run=", {"dry_run"}),
        ("DELETE", "name=Andi&phone=1&dry_run=x", {"name", "phone", "dry_run"}),
    ],
)
def test_a_malformed_request_is_refused_with_every_error(
    site: httpx.Client, operator: Headers, method: str, query: str, fields: set[str]
) -> None:
    response = site.request(method, f"{PATH}?{query}", headers=operator)
    assert response.status_code == 400, response.text
    assert set(response.json()["details"]) == fields


def test_only_operators_have_access(site: httpx.Client, services: Services, database: Rows) -> None:
    store_lead(services, make_lead())
    for method in ("GET", "HEAD", "DELETE"):
        response = site.request(method, PATH, params=PERSON)
        assert response.status_code == 401
    assert count_rows(database, "leads") == 1
    assert site.post(PATH, params=PERSON).headers["Allow"] == "DELETE, GET, HEAD, OPTIONS"


def test_nobody_is_erased_without_the_erasure_key(
    platform: Platform, services: Services, database: Rows, operator: Headers
) -> None:
    store_lead(services, make_lead())
    with platform.function("api/leads_subject.py", ERASURE_KEY="") as function:
        address = f"{function.url}{PATH}"
        assert httpx.get(address, params=PERSON, headers=operator).status_code == 200
        response = httpx.delete(address, params=PERSON, headers=operator)
    assert (response.status_code, response.json()["error"]) == (503, "service_not_configured")
    assert count_rows(database, "leads") == 1
