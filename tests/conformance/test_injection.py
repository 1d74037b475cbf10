"""Line breaks, HTML and formulas in every field and header of a lead stay text wherever they go:
mails, pages, the export, the log.

That no name reaches the log, Sentry or Slack, dev/faults/invariant_report.py judges by each fault.
"""

import csv
import io
import json
import re
import socket
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from tests.conftest import BROWSER, FORM, LEAD, delivered, eventually

type Rows = psycopg.Connection[DictRow]

FORGED = '{"event": "forged"}'
TEXTS = {
    "lines": f"Melati\r\nBcc: all@example.com\r\n\r\n{FORGED}\u2028{FORGED}\x85{FORGED}",
    "html": "\"'><img src=x onerror=alert(1)><script>alert(1)</script>&lt;b&gt;",
    "formula": '=SUM(A1:A9)+cmd|"Melati"',
}
FIELDS = (
    *("business_name", "contact_name", "city", "specialization", "current_brands_used"),
    *("monthly_spend_range", "message", "page_url_initial", "page_url_current", "referrer"),
    *("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "consent_version"),
)
SHORT = {"city": 80, "monthly_spend_range": 80, "consent_version": 80}
FORMULA_STARTS = tuple("=+-@＝＋－＠\t\r\n")


def filled(text: str) -> dict[str, Any]:
    """A lead with the text in every field that takes any."""
    return LEAD | {name: text[: SHORT.get(name)] for name in FIELDS}


def send(site: httpx.Client, text: str) -> None:
    # A header takes no line break from this client, and a formula from any.
    headers = {"User-Agent": re.sub(r"[^\x20-\x7e]+", " ", text), "Idempotency-Key": "melati-1"}
    answer = site.post("/api/leads", json=filled(text), headers=headers)
    assert answer.status_code == 200, answer.text


class Markup(HTMLParser):
    """Tags and attributes' names of a page, each with how often it is there."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.update([tag, *(f"{tag} {name}" for name, _ in attrs)])


@pytest.mark.parametrize("kind", TEXTS)
def test_a_mail_has_our_headers_and_our_markup_alone(
    site: httpx.Client, platform: Platform, kind: str
) -> None:
    site.post("/api/leads", json=LEAD | dict.fromkeys(FIELDS, "Melati"))
    eventually(lambda: len(delivered(platform)) == 2)
    ordinary = {mail["subject"].split()[0]: Markup(mail["html"]).parts for mail in sent(platform)}
    platform.resend.forget()
    send(site, TEXTS[kind])
    eventually(lambda: len(delivered(platform)) == 2)
    assert sorted(mail["to"] for mail in sent(platform)) == [
        ["andi@example.com"],
        [platform.environment["MAIL_SALES_TO"]],
    ]
    for mail in sent(platform):
        assert not {"bcc", "cc", "headers", "attachments"} & {*mail}
        for name in ("from", "to", "reply_to", "subject"):
            assert len(str(mail.get(name)).splitlines()) == 1, name
        assert Markup(mail["html"]).parts == ordinary[mail["subject"].split()[0]]


def sent(platform: Platform) -> list[dict[str, Any]]:
    """The mails as Resend got them."""
    records = platform.resend.received()
    return [record["body"] for record in records if record["method"] == "POST"]


@pytest.mark.parametrize("language", ["id", "en"])
def test_a_form_that_comes_back_holds_every_field_as_text(
    site: httpx.Client, language: str
) -> None:
    headers = {**BROWSER, "Accept-Language": language}
    pages = []
    for text in ("Melati", TEXTS["html"]):
        fields = {**FORM, **filled(text), "consent": "on", "email": f"none{text}"}
        answer = site.post("/api/leads", data=fields, headers=headers)
        assert answer.status_code == 400
        pages.append(answer.text)
    assert "alert(1)" in pages[1], "what was typed is kept"
    assert Markup(pages[1]).parts == Markup(pages[0]).parts


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("excel", ["0", "1"])
def test_the_export_has_a_row_a_lead_and_no_formula(
    site: httpx.Client, platform: Platform, kind: str, excel: str
) -> None:
    send(site, TEXTS[kind])
    token = {"Authorization": f"Bearer {platform.environment['LEADS_ADMIN_TOKEN']}"}
    answer = site.get("/api/leads/export", params={"excel": excel}, headers=token)
    text = answer.content.decode("utf-8-sig")
    head, row = csv.reader(io.StringIO(text), delimiter=";" if ";" in text[:30] else ",")
    assert len(head) == len(row)
    cells = dict(zip(head, row, strict=True))
    cells.pop("phone")  # digits behind a plus
    assert [cell for cell in cells.values() if cell.lstrip().startswith(FORMULA_STARTS)] == []


@pytest.mark.parametrize("target", [
    "/api/leads%0d%0a" + FORGED.replace(" ", "%20"),
    "/api/leads%0a%1b%5b31m%e2%80%a8%c2%85",
    "/api/leads?x=%0a" + FORGED.replace(" ", ""),
    "/api/leads\x1b[31m\x85\x0b\x0c",
])  # fmt: skip
@pytest.mark.parametrize("folded", [False, True])
def test_no_address_and_no_header_forges_a_line_of_the_log(
    platform: Platform, database: object, target: str, folded: bool
) -> None:
    end = "\r\n " if folded else " "
    names = (
        "User-Agent",
        "X-Request-Id",
        "Referer",
        "Idempotency-Key",
        "Accept-Language",
        "Origin",
    )
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: x",
        "Content-Length: 2",
        "Content-Type: application/json",
    ]
    lines += [f"{name}: melati{end}{FORGED}" for name in names]
    with platform.function("api/leads.py") as function:
        with socket.create_connection(("127.0.0.1", function.port), timeout=10) as caller:
            caller.sendall("\r\n".join([*lines, "", "{}"]).encode("latin-1"))
            caller.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: caller.recv(1 << 16), b""))
        assert answer.split(b" ")[1][:1] == b"4"
        assert b"forged" not in answer.partition(b"\r\n\r\n")[0], "no header of the answer holds it"
        messages = eventually(lambda: _messages(function.logs()))
    for message in messages:
        assert not re.search(r"[\x00-\x1f\x7f]", message), ascii(message)
        if message.startswith("{"):
            assert json.loads(message)["event"] != "forged"


def _messages(lines: list[dict[str, Any]]) -> list[str]:
    """The log, once the request is in it."""
    messages = [str(line["message"]).rstrip("\n") for line in lines]
    return messages if any("/api/leads" in message for message in messages) else []
