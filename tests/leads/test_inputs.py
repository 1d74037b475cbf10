"""One table of what people type, through the API and through the real page: inputs.json.

A row has a field, what is typed (`times` over), and what is kept of it, or that it is refused. The
page stops nothing that the API takes, cuts nothing off, and shows the API's words for the rest.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, Page, Route, expect
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from tests.browser.test_form import error, fill, send
from tests.conftest import LEAD
from tests.fix_browser import PHONE_SCREEN, browser

__all__ = ["browser"]  # a fixture

type Database = psycopg.Connection[DictRow]
type Api = Callable[[bytes, str], httpx.Response]

INPUTS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("inputs.json").read_text(encoding="utf-8")
)
for _row in INPUTS:
    for _name in ("typed", "stored"):
        if isinstance(_row.get(_name), str):
            _row[_name] *= _row.get("times", 1)
TYPED = [row for row in INPUTS if isinstance(row["typed"], str)]  # what a page can send
# Left empty, these are not sent at all: the page asks for them itself.
SENT = [row for row in TYPED if "refused" not in row or row["typed"].strip()]

UNLIMITED = {
    "LEADS_PER_MINUTE": "100000",
    "LEADS_PER_HOUR": "100000",
    "LEADS_CEILING_PER_MINUTE": "100000",
}


@pytest.fixture
def api(platform: Platform, database: Database) -> Iterator[Api]:
    """A function that takes any number of leads of one client."""
    with (
        platform.function("api/leads.py", **UNLIMITED) as function,
        httpx.Client(base_url=function.url, timeout=20) as client,
    ):

        def post(body: bytes, content_type: str) -> httpx.Response:
            headers = {"Content-Type": content_type, "Accept": "application/json"}
            return client.post("/api/leads", content=body, headers=headers)

        yield post


def other_fields(row: dict[str, Any], number: int) -> dict[str, str]:
    """A visitor of their own for each row, or they would be one lead."""
    if row["field"] == "phone_whatsapp":
        return {"business_name": f"Salon {number}"}
    return {"phone_whatsapp": f"0812 3456 {number:04}"}


def faults(database: Database, row: dict[str, Any], answer: httpx.Response) -> list[str]:
    """What the API's answer or the table has otherwise than the row says."""
    about = f"{row['field']} {ascii(row['typed'])[:80]}"
    if "refused" in row:
        words = answer.json().get("details", {})
        return (
            []
            if answer.status_code == 400 and list(words) == [row["field"]]
            else [f"{about}: {answer.status_code} {words}"]
        )
    if answer.status_code != 200:
        return [f"{about}: {answer.status_code} {answer.json().get('details')}"]
    (stored,) = database.execute("select * from leads where id = %s", [answer.json()["id"]])
    value = stored[row["field"]]
    return [] if value == row["stored"] else [f"{about}: {ascii(value)[:80]}"]


def test_the_api_takes_each_input_as_the_table_says(api: Api, database: Database) -> None:
    wrong: list[str] = []
    for number, row in enumerate(INPUTS):
        lead = {**LEAD, "message": "", **other_fields(row, number), row["field"]: row["typed"]}
        answer = api(json.dumps(lead).encode(), "application/json")
        wrong += faults(database, row, answer)
    assert wrong == []


SET = "values => { for (const name in values) document.getElementById(name).value = values[name]; }"


class Form:
    """The page, opened once and sent again and again: no answer makes it go away."""

    def __init__(self, page: Page, api: Api, stay: Callable[[Route, httpx.Response], None]) -> None:
        self._page, self._api, self._stay = page, api, stay
        self._answers: list[httpx.Response] = []
        page.route("**/api/leads", self._forward)
        page.goto("/")
        page.locator("summary").click()
        fill(page)
        self._empty = {row["field"]: page.locator(f"#{row['field']}").input_value() for row in SENT}

    def _forward(self, route: Route) -> None:
        request = route.request
        answer = self._api(request.post_data_buffer or b"", request.headers["content-type"])
        self._answers.append(answer)
        self._stay(route, answer)

    def answer(self, row: dict[str, Any], number: int) -> httpx.Response | None:
        """The API's, once the row is typed and sent; None when it is not sent."""
        self._answers.clear()
        self._page.evaluate(SET, self._empty | other_fields(row, number))
        self._page.locator(f"#{row['field']}").fill(row["typed"])
        send(self._page)
        end = time.monotonic() + 5
        while not self._answers and time.monotonic() < end:
            self._page.wait_for_timeout(5)
        return self._answers[0] if self._answers else None


def test_the_page_sends_each_input_and_shows_the_apis_words(
    browser: Browser, platform: Platform, api: Api, database: Database
) -> None:
    def stay(route: Route, answer: httpx.Response) -> None:
        refusal = {"error": "validation_error", "details": answer.json().get("details", {})}
        route.fulfill(status=400, json=refusal)

    wrong: list[str] = []
    with browser.new_context(base_url=platform.url, viewport=PHONE_SCREEN) as context:
        page = context.new_page()
        form = Form(page, api, stay)
        for number, row in enumerate(SENT):
            about = f"{row['field']} {ascii(row['typed'])[:80]}"
            answer = form.answer(row, number)
            if answer is None:
                wrong.append(f"{about}: not sent, {error(page, row['field'])}")
                continue
            expect(page.locator("[data-submit]")).to_have_attribute("aria-disabled", "false")
            wrong += faults(database, row, answer)
            shown = error(page, row["field"])
            if [shown] != answer.json().get("details", {}).get(row["field"], [""]):
                wrong.append(f"{about}: {shown}")
    assert wrong == []


def test_the_page_without_javascript_sends_each_input(
    browser: Browser, platform: Platform, api: Api, database: Database
) -> None:
    wrong: list[str] = []
    with browser.new_context(
        base_url=platform.url, viewport=PHONE_SCREEN, java_script_enabled=False
    ) as context:
        # Without content the page stays.
        form = Form(context.new_page(), api, lambda route, _: route.fulfill(status=204))
        for number, row in enumerate(SENT):
            answer = form.answer(row, number)
            if answer is None:
                wrong.append(f"{row['field']} {ascii(row['typed'])[:80]}: not sent")
            else:
                wrong += faults(database, row, answer)
    assert wrong == []
