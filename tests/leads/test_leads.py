"""POST /api/leads as callers see it."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.leads import consent, repository, submission
from lib.leads.lead import Lead, Recipients
from tests.conftest import BROWSER, FORM, LEAD, delivered, eventually

type Rows = psycopg.Connection[DictRow]


def fetch_one(database: Rows, query: str) -> dict[str, Any]:
    rows = database.execute(query).fetchall()
    assert len(rows) == 1, rows
    return rows[0]


def messages(platform: Platform) -> list[str]:
    return [str(line["message"]) for line in platform.logs()]


@pytest.fixture(scope="module")
def allowing(platform: Platform) -> Iterator[Function]:
    """The function with an allow-listed origin beside its own."""
    allowed = {"ALLOWED_ORIGINS": "https://promo.alfabeauty.co.id", "LEADS_PER_MINUTE": "1000"}
    with platform.function("api/leads.py", **allowed) as function:
        yield function


def both_mails(platform: Platform) -> list[dict[str, Any]]:
    mails = delivered(platform)
    return mails if len(mails) == 2 else []


def nothing_is_stored(database: Rows) -> bool:
    counts = fetch_one(
        database,
        "select (select count(*) from leads) + (select count(*) from outbox)"
        " + (select count(*) from spam) as n",
    )
    return bool(counts["n"] == 0)


def test_a_lead_is_stored_and_answered_with_its_id_and_reference(
    site: httpx.Client, database: Rows
) -> None:
    answer = site.post("/api/leads", json=LEAD)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"success", "id", "ref"}
    assert body["success"] is True
    assert re.fullmatch(r"ALFA-[2-9A-Z]{5}", body["ref"])
    row = fetch_one(database, "select * from leads")
    assert (row["id"], row["ref"]) == (UUID(body["id"]), body["ref"])
    assert row["phone_whatsapp"] == "+6281234567890"
    assert row["email"] == "andi@example.com"
    assert row["chair_count"] == 6
    assert row["message"] == "Tertarik bermitra.\nMohon info harga."
    assert row["locale"] == "id"
    assert str(row["ip_address"]) == "127.0.0.1"


def test_the_consent_is_recorded_with_its_version_time_language_and_hash(
    site: httpx.Client, database: Rows
) -> None:
    site.post("/api/leads", json={**LEAD, "locale": "en", "consent_version": "2026-11"})
    row = fetch_one(database, "select * from leads")
    assert row["consent_version"] == "2026-11"
    assert row["consent_locale"] == "en"
    assert row["consent_sha256"] == consent.sentence_sha256("2026-11", "en")
    assert row["consent_at"] == row["created_at"]


def test_a_consent_version_newer_than_this_deployment_does_not_cost_a_lead(
    site: httpx.Client, database: Rows
) -> None:
    answer = site.post("/api/leads", json={**LEAD, "consent_version": "2031-01"})
    assert answer.status_code == 200
    row = fetch_one(database, "select * from leads")
    assert (row["consent_version"], row["consent_sha256"]) == ("2031-01", None)


def test_addresses_keep_campaign_marks_and_lose_every_other_parameter(
    site: httpx.Client, database: Rows
) -> None:
    link = "https://alfabeauty.co.id/?utm_source=ig&name=Budi&gclid=x1&phone=0812#chat"
    fields = {"page_url_initial": link, "page_url_current": link, "referrer": link}
    site.post("/api/leads", json={**LEAD, **fields, "utm_source": "ig"})
    row = fetch_one(database, "select * from leads")
    for name in fields:
        assert row[name] == "https://alfabeauty.co.id/?utm_source=ig&gclid=x1"
    assert row["utm_source"] == "ig"


def test_sales_get_one_mail_with_every_field(site: httpx.Client, platform: Platform) -> None:
    ref = site.post("/api/leads", json={**LEAD, "utm_campaign": "lebaran"}).json()["ref"]
    mails = eventually(lambda: both_mails(platform))
    sales = next(mail for mail in mails if mail["to"] == ["sales@alfabeauty.test"])
    assert sales["subject"] == "New Lead: Barber Maju Jaya"
    assert sales["reply_to"] == ["andi@example.com"]
    message = "Tertarik bermitra.\nMohon info harga."
    chat = "https://wa.me/6281234567890"
    values = ("Andi Saputra", "+6281234567890", "Medan", "BARBER", "6", "coloring, keratin",
             message, "lebaran", ref, chat)  # fmt: skip
    for value in values:
        assert value in sales["text"]
        assert value in sales["html"]


def test_the_sender_gets_one_acknowledgement_in_their_language(
    site: httpx.Client, platform: Platform
) -> None:
    ref = site.post("/api/leads", json={**LEAD, "locale": "en"}).json()["ref"]
    mails = eventually(lambda: both_mails(platform))
    letter = next(mail for mail in mails if mail["to"] == ["andi@example.com"])
    assert letter["subject"] == f"We have received your details ({ref})"
    assert "Barber Maju Jaya" not in json.dumps(letter), "an address may be somebody else's"


def test_without_an_address_only_sales_are_mailed(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    site.post("/api/leads", json={**LEAD, "email": ""})
    sent = "select 1 from outbox where sent_at is not null"
    eventually(lambda: database.execute(sent).fetchone())
    assert [(mail["to"], mail["reply_to"]) for mail in delivered(platform)] == [
        (["sales@alfabeauty.test"], [])
    ]


@pytest.mark.measures_time
def test_the_answer_never_waits_for_mail(site: httpx.Client, platform: Platform) -> None:
    site.post("/api/leads", json=LEAD)  # warm
    eventually(platform.is_idle)
    platform.resend.switch(mode="slow", delay_s=3)
    answer = site.post("/api/leads", json={**LEAD, "business_name": "Salon Cepat"})
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 1.5


@pytest.mark.parametrize(
    "send",
    [
        lambda site, data: site.post("/api/leads", data=data),
        lambda site, data: site.post(
            "/api/leads", files={key: (None, value) for key, value in data.items()}
        ),
    ],
    ids=["urlencoded", "multipart"],
)
def test_a_form_body_is_a_lead_too(
    site: httpx.Client, database: Rows, send: Callable[..., httpx.Response]
) -> None:
    answer = send(site, FORM)
    assert answer.status_code == 200, answer.text
    assert fetch_one(database, "select * from leads")["consent_version"] == consent.CURRENT_VERSION


def test_a_form_navigation_is_sent_to_the_thank_you_page_with_its_reference(
    site: httpx.Client, database: Rows
) -> None:
    answer = site.post("/api/leads", data={**FORM, "locale": "en"}, headers=BROWSER)
    assert answer.status_code == 303
    ref = fetch_one(database, "select ref from leads")["ref"]
    assert answer.headers["Location"] == f"/en/thank-you?ref={ref}"
    page = site.get(answer.headers["Location"])
    assert page.status_code == 200
    assert f">{ref}</output>" in page.text


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        ("/promo/terima-kasih?kode=1", True),
        ("//evil.example/", False),
        ("https://evil.example/", False),
        ("/\\evil.example", False),
        ("javascript:alert(1)", False),
        ("/ok\r\nSet-Cookie: a=b", False),
        ("http://[", False),
        ("///evil.example", False),
        ("https://alfabeauty.co.id@evil.example/", False),
    ],
)
def test_a_redirect_to_another_site_is_ignored(
    site: httpx.Client, wanted: str, taken: bool
) -> None:
    answer = site.post("/api/leads", data={**FORM, "redirect": wanted}, headers=BROWSER)
    assert answer.status_code == 303
    location = answer.headers["Location"]
    assert location.startswith(wanted if taken else "/terima-kasih?")
    assert "ref=ALFA-" in location


@pytest.mark.parametrize(
    ("wanted", "sent_to"),
    [
        ("/promo", "/promo?ref={}"),
        ("/promo#kontak", "/promo?ref={}#kontak"),
        ("/promo?kode=1#kontak", "/promo?kode=1&ref={}#kontak"),
        ("/promo#apa?itu", "/promo?ref={}#apa?itu"),
        ("/promo?", "/promo?ref={}"),
        ("/promo?#a", "/promo?ref={}#a"),
        ("/promo?kode=1&", "/promo?kode=1&ref={}"),
        ("/promo?ref=ALFA-OLD22", "/promo?ref={}"),
        ("/promo?ref=ALFA-OLD22&kode=a%20b&r%65f=x#k", "/promo?kode=a%20b&ref={}#k"),
        ("/promo?ref", "/promo?ref={}"),
        ("/promo?xref=1&href=2", "/promo?xref=1&href=2&ref={}"),
        ("/promo?a=b?c=d", "/promo?a=b?c=d&ref={}"),
        ("{url}", "{url}?ref={}"),
        ("{url}#k", "{url}?ref={}#k"),
        ("{url}/promo?a#k", "{url}/promo?a&ref={}#k"),
    ],
)
def test_a_redirect_gets_the_reference_as_a_parameter_of_its_own(
    site: httpx.Client, platform: Platform, database: Rows, wanted: str, sent_to: str
) -> None:
    form = {**FORM, "redirect": wanted.replace("{url}", platform.url)}
    answer = site.post("/api/leads", data=form, headers=BROWSER)
    ref = fetch_one(database, "select ref from leads")["ref"]
    expected = sent_to.replace("{url}", platform.url).replace("{}", ref)
    assert (answer.status_code, answer.headers["Location"]) == (303, expected)


def test_a_form_with_errors_comes_back_with_the_submitted_values(
    site: httpx.Client, database: Rows
) -> None:
    typed = {**FORM, "phone_whatsapp": "12", "message": "</textarea><script>x</script>"}
    answer = site.post("/api/leads", data=typed, headers=BROWSER)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("text/html")
    page = answer.text
    assert 'value="Barber Maju Jaya"' in page
    assert 'value="12"' in page
    assert "Nomor WhatsApp tidak valid" in page
    assert "&lt;/textarea&gt;&lt;script&gt;" in page
    assert "<script>x" not in page
    assert nothing_is_stored(database)


def test_every_validation_error_is_named_at_once(site: httpx.Client, database: Rows) -> None:
    answer = site.post(
        "/api/leads",
        json={"business_name": "a", "phone_whatsapp": "123", "city": "", "salon_type": "SPA",
              "consent": "yes", "email": "nobody", "chair_count": 0, "isAdmin": True},
    )  # fmt: skip
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["error"] == "validation_error"
    assert set(body["details"]) == {
        "business_name", "contact_name", "phone_whatsapp", "city", "salon_type", "consent",
        "email", "chair_count", "isAdmin",
    }  # fmt: skip
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert nothing_is_stored(database)


def test_messages_follow_the_callers_language_and_codes_do_not(site: httpx.Client) -> None:
    indonesian = site.post("/api/leads", json={}).json()
    english = site.post("/api/leads", json={}, headers={"Accept-Language": "en-GB"}).json()
    by_field = site.post("/api/leads", json={"locale": "en"}).json()
    assert indonesian["details"]["city"] == ["Wajib diisi."]
    assert english["details"]["city"] == by_field["details"]["city"] == ["This is required."]
    assert indonesian["error"] == english["error"] == "validation_error"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b'{"a": NaN}', b"[" * 100_000, b'"\xff"', b"1" * 5000],
    ids=["empty", "cut", "text", "nan", "nested", "not utf-8", "huge number"],
)
def test_a_body_that_is_not_json_is_refused(
    site: httpx.Client, database: Rows, body: bytes
) -> None:
    answer = site.post("/api/leads", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_json")
    assert nothing_is_stored(database)


@pytest.mark.parametrize("body", [[], None, "text", 5, [LEAD]])
def test_json_that_is_no_object_is_a_validation_error_of_the_body(
    site: httpx.Client, body: object
) -> None:
    answer = site.post(
        "/api/leads", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert list(answer.json()["details"]) == ["_"]


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "a\u0000b"},
        {"business_name": "a\ud800b"},
        {"\ud800": "x"},
        {"consent": 1},
        {"chair_count": True},
        {"chair_count": 1e400},
        {"chair_count": "12e3"},
        {"business_name": ["a", "b"]},
        {"message": {"$ne": 1}},
        {"phone_whatsapp": "+6281234567890<script>"},
        {"email": "a@b\r\nBcc: x@y.z"},
        {"business_name": "x" * 256},
        {"page_url_current": "x" * 2049},
        {"company": 5},
    ],
    ids=lambda fields: json.dumps(fields)[:40],
)
def test_malicious_input_is_a_validation_error_and_not_stored(
    site: httpx.Client, database: Rows, fields: dict[str, object]
) -> None:
    body = json.dumps({**LEAD, **fields}).replace("Infinity", "1e400")
    answer = site.post("/api/leads", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == "validation_error"
    assert len(answer.json()["details"]) == 1
    assert nothing_is_stored(database)


def test_names_are_cleaned_and_cannot_break_a_mail_header(
    site: httpx.Client, database: Rows, platform: Platform
) -> None:
    site.post(
        "/api/leads",
        json={**LEAD, "email": "", "business_name": " Salon\r\nBcc: all@x.y\u202e <b>Ayu</b> "},
    )
    assert (
        fetch_one(database, "select * from leads")["business_name"]
        == "Salon Bcc: all@x.y <b>Ayu</b>"
    )
    mail = eventually(lambda: delivered(platform))[0]
    assert "\n" not in mail["subject"]
    assert "<b>Ayu</b>" not in mail["html"]


def test_a_body_over_100_kib_is_refused_as_measured(site: httpx.Client, database: Rows) -> None:
    def chunks() -> Any:
        yield b'{"message": "'
        for _ in range(101):
            yield b"x" * 1024
        yield b'"}'

    for content in (b"x" * (100 * 1024 + 1), chunks()):
        answer = site.post(
            "/api/leads", content=content, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]) == (413, "payload_too_large")
    assert nothing_is_stored(database)


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "", "text/json"])
def test_other_content_types_are_refused(site: httpx.Client, content_type: str) -> None:
    answer = site.post("/api/leads", content=b"{}", headers={"Content-Type": content_type})
    assert answer.status_code == 415
    assert answer.json()["error"] == "content_type_must_be_application_json"


def test_a_file_or_a_field_given_twice_is_a_validation_error(
    site: httpx.Client, database: Rows
) -> None:
    answer = site.post("/api/leads", data=FORM, files={"message": ("a.txt", b"text")})
    assert answer.json()["details"] == {"message": ["Berkas tidak diterima."]}
    answer = site.post("/api/leads", data={**FORM, "city": ["Medan", "Binjai"]})
    assert answer.json()["details"] == {"city": ["Dikirim lebih dari sekali."]}
    assert nothing_is_stored(database)


@pytest.mark.parametrize(
    ("inserted", "key"),
    [
        ('"consent": false, ', "consent"),
        ('"consent": true, ', "consent"),  # the same twice is twice
        ('"\\u0063onsent": false, ', "consent"),
        ('"business_name": "Other", ', "business_name"),
        ('"email": null, ', "email"),
        ('"note": {"a": 1, "a": 2}, ', "a"),
        ('"list": [[{"b": 1, "c": 2, "b": 3}]], ', "b"),
        ('"": 1, "": 2, ', ""),
        ('"\\ud800": 1, "\\ud800": 2, ', "?"),
        ('"redirect": "/a", "redirect": "/b", ', "redirect"),
    ],
)
def test_a_json_key_given_twice_is_a_validation_error(
    site: httpx.Client, database: Rows, inserted: str, key: str
) -> None:
    body = json.dumps(LEAD).replace("{", "{" + inserted, 1)
    answer = site.post("/api/leads", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "validation_error")
    assert answer.json()["details"][key] == ["Dikirim lebih dari sekali."]
    assert nothing_is_stored(database)


def test_a_json_key_given_twice_is_named_beside_every_other_error(site: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Accept-Language": "en"}
    body = '{"city": "Medan", "city": "Binjai", "salon_type": "SPA"}'
    details = site.post("/api/leads", content=body, headers=headers).json()["details"]
    assert details["city"] == ["Given more than once."]
    assert set(details) == {
        "business_name", "contact_name", "phone_whatsapp", "city", "salon_type", "consent"
    }  # fmt: skip
    form = {"city": ["Medan", "Binjai"], "salon_type": "SPA"}
    assert site.post("/api/leads", data=form).json()["details"].keys() == details.keys()


def test_a_filled_honeypot_looks_like_success_and_mails_nobody(
    site: httpx.Client, database: Rows, platform: Platform
) -> None:
    answer = site.post("/api/leads", json={**LEAD, "company": "SEO Inc"})
    assert answer.status_code == 200
    assert set(answer.json()) == {"success", "id", "ref"}
    row = fetch_one(database, "select * from spam")
    assert row["reason"] == "honeypot"
    assert row["submission"]["business_name"] == "Barber Maju Jaya"
    assert database.execute("select 1 from leads").fetchone() is None
    assert platform.resend.received() == []


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("https://alfabeauty.co.id.evil.example", 403),
    ],
)
def test_pages_of_other_sites_may_not_post(
    site: httpx.Client, database: Rows, origin: str, status: int
) -> None:
    answer = site.post("/api/leads", json=LEAD, headers={"Origin": origin})
    assert answer.status_code == status
    assert answer.json()["error"] == "origin_not_allowed"
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert nothing_is_stored(database)


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({}, True),  # no browser
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin", "Referer": "{url}/"}, True),
        ({"Origin": "null"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "Cross-Site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "nonsense"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Referer": "https://evil.example/form"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Referer": "https://["}, False),
        ({"Sec-Fetch-Site": "cross-site", "Referer": "/"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Referer": "https://promo.alfabeauty.co.id/a"}, True),
        ({"Sec-Fetch-Site": "same-site", "Referer": "https://promo.alfabeauty.co.id/a"}, True),
        ({"Origin": "https://promo.alfabeauty.co.id", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "https://evil.example", "Referer": "{url}/"}, False),
    ],
)
@pytest.mark.parametrize("navigating", [True, False])
def test_a_form_is_taken_from_this_site_and_the_allow_list_alone(
    allowing: Function,
    database: Rows,
    headers: dict[str, str],
    taken: bool,
    navigating: bool,
) -> None:
    sent = {name: value.replace("{url}", allowing.url) for name, value in headers.items()}
    answer = httpx.post(
        f"{allowing.url}/api/leads", data=FORM, headers=sent | (BROWSER if navigating else {})
    )
    assert answer.status_code == ((303 if navigating else 200) if taken else 403), answer.text
    assert nothing_is_stored(database) is not taken


def test_this_site_and_allow_listed_origins_may_post(platform: Platform, database: Rows) -> None:
    with platform.function(
        "api/leads.py", ALLOWED_ORIGINS="https://promo.alfabeauty.co.id"
    ) as leads:
        headers = {"Origin": "https://promo.alfabeauty.co.id"}
        preflight = httpx.options(f"{leads.url}/api/leads", headers=headers)
        assert preflight.status_code == 204
        assert "Idempotency-Key" in preflight.headers["Access-Control-Allow-Headers"]
        answer = httpx.post(f"{leads.url}/api/leads", json=LEAD, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == headers["Origin"]
    own = httpx.post(f"{platform.url}/api/leads", json=LEAD, headers={"Origin": platform.url})
    assert own.status_code == 200


def test_other_methods_are_refused_with_what_is_allowed(site: httpx.Client) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = site.request(method, "/api/leads")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "OPTIONS, POST")
    assert site.options("/api/leads").headers["Allow"] == "OPTIONS, POST"


def test_a_valid_request_id_is_echoed_and_any_other_replaced(site: httpx.Client) -> None:
    valid, invalid = ["abc-12345_x"], ["short", "x" * 129, "a b c d e f"]
    for request_id, is_echoed in [*((v, True) for v in valid), *((v, False) for v in invalid)]:
        answer = site.post("/api/leads", json={}, headers={"X-Request-Id": request_id})
        assert (answer.headers["X-Request-Id"] == request_id) is is_echoed


def test_every_answer_is_no_store_and_carries_the_security_headers(
    site: httpx.Client,
) -> None:
    for answer in (site.post("/api/leads", json=LEAD), site.post("/api/leads", json={})):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "max-age" in answer.headers["Strict-Transport-Security"]
        assert answer.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"


def test_logs_hold_the_decision_and_nothing_about_the_person(
    site: httpx.Client, platform: Platform
) -> None:
    lead = site.post("/api/leads", json=LEAD).json()
    lines = eventually(lambda: [m for m in messages(platform) if '"event": "request"' in m])
    facts = json.loads(lines[0])
    assert facts["lead"] == lead["id"]
    assert (facts["decision"], facts["status"], facts["sent"]) == ("stored", 200, 2)
    everything = json.dumps(platform.logs(), ensure_ascii=False)
    for personal in ("Maju Jaya", "Andi", "81234567890", "example.com", "Medan", "Tertarik"):
        assert personal not in everything


def test_a_missing_variable_is_named_in_the_log_and_not_to_the_caller(
    platform: Platform, database: Rows
) -> None:
    nothing = dict.fromkeys(platform.environment)
    with platform.function("api/leads.py", **nothing) as leads:
        answer = httpx.post(f"{leads.url}/api/leads", json=LEAD, timeout=10)
        assert (answer.status_code, answer.json()["error"]) == (503, "persistence_failed")
        assert int(answer.headers["Retry-After"]) > 0
        logged = eventually(
            lambda: [
                line for line in map(str, leads.logs()) if '"decision": "not_persisted"' in line
            ]
        )
    for name in ("DATABASE_URL", "UPSTASH_REDIS_REST_URL", "RESEND_API_KEY"):
        assert name not in answer.text
        assert name in logged[0]


def test_a_lead_and_its_mails_are_one_statement_and_one_round_trip(
    platform: Platform, database: Rows, tmp_path: Path
) -> None:
    """Counted in libpq's own trace: one Sync is one round trip, outside any BEGIN."""
    lead = Lead.from_submission(
        submission.parse(LEAD), key=None, locale="id", now=datetime.now(UTC),
        ip_address=None, user_agent=None,
    )  # fmt: skip
    recipients = Recipients("a@b.co", ("s@b.co",))
    with (
        (tmp_path / "trace").open("w+") as trace,
        psycopg.connect(
            platform.database_url, autocommit=True, prepare_threshold=None
        ) as connection,
    ):
        connection.pgconn.trace(trace.fileno())
        repository.insert(
            lambda work: work(connection),
            lead,
            recipients,
            now=lead.created_at,
            deliver_now=True,
            erasure_keys=(),
        )
        connection.pgconn.untrace()
        trace.seek(0)
        sent = [line.split("\t")[3].strip() for line in trace if "\tF\t" in line]
    assert sent == ["Parse", "Bind", "Describe", "Execute", "Sync"]
    both = fetch_one(database, "select count(*) as n from leads join outbox on lead_id = leads.id")
    assert both["n"] == 2
