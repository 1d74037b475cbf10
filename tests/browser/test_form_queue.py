"""What the form does offline: drafts, queued submissions, several tabs, and what is shown.

Requests are cut or answered in the browser's own network stack; what gets through meets the
real API. A handler of ours runs only while Playwright waits, so wait with `expect`, never sleep.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from dev.platform.local_platform import Platform
from tests.browser.test_form import (
    FORM_PATHS,
    THANKS_PATHS,
    Database,
    fill,
    send,
    stored,
    visible_errors,
    wait_for_thanks,
)
from tests.fix_browser import PHONE_SCREEN, browser

__all__ = ["browser"]

NUMBER = ["3456-7890", "3456 7890", "34567890"]  # shorter, it may be a part of a time in ms
PERSONAL = ["Melati", "Wahyuni", *NUMBER, "Medan", "sri@example.com", "rahasia"]
"""Pieces of all that `fill` and `fill_the_rest` type, the number in each spelling."""

WAITING = {"id": "Belum terkirim, kami coba lagi otomatis", "en": "Not sent yet, we try again"}
SENT = {"id": "Terkirim. Kode Anda ALFA-", "en": "Sent. Your code is ALFA-"}
DRAFT = {"id": "ada lagi di sini", "en": "is here again"}
NO_STORAGE = """
for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
Object.defineProperty(navigator.locks, "request", { value: () => Promise.reject(new Error("no")) });
"""
NO_LOCKS = "Object.defineProperty(navigator, 'locks', { value: undefined });"

both_languages = pytest.mark.parametrize("locale", ["id", "en"])


@pytest.fixture
def phone(browser: Browser, platform: Platform, database: Database) -> Iterator[BrowserContext]:
    """A visitor's phone: its tabs come and go, its storage stays."""
    with browser.new_context(base_url=platform.url, viewport=PHONE_SCREEN) as context:
        yield context


class Network:
    """Between a phone and the API. `answer` None lets everything through."""

    def __init__(self, phone: BrowserContext) -> None:
        self.answer: Callable[[Route], None] | None = cut
        self.tries: list[tuple[str, float, dict[str, Any]]] = []
        self.headers: dict[str, str] = {}
        phone.route("**/api/leads", self._carry)

    def _carry(self, route: Route) -> None:
        self.headers = route.request.headers
        body: dict[str, Any] = json.loads(route.request.post_data or "{}")
        self.tries.append((self.headers["idempotency-key"], time.monotonic(), body))
        if self.answer is None:
            route.continue_()
        else:
            self.answer(route)

    @property
    def keys(self) -> set[str]:
        return {key for key, _, _ in self.tries}


def cut(route: Route) -> None:
    route.abort("internetdisconnected")


def silent(_route: Route) -> None:
    """Never an answer."""


def answer_with(status: int, *, retry_after: int = 0, **members: object) -> Callable[[Route], None]:
    def answer(route: Route) -> None:
        route.fulfill(
            status=status,
            headers={"Retry-After": str(retry_after)} if retry_after else {},
            content_type="application/problem+json",
            body=json.dumps(members),
        )

    return answer


@pytest.fixture
def network(phone: BrowserContext) -> Network:
    return Network(phone)


def open_form(phone: BrowserContext, locale: str = "id") -> Page:
    page = phone.new_page()
    page.goto(FORM_PATHS[locale])
    return page


def panel(page: Page) -> Any:
    return expect(page.locator("[data-panel-text]"))


def fill_the_rest(page: Page) -> None:
    page.locator("summary").click()
    page.locator("#email").fill("sri@example.com")
    page.locator("#message").fill("Ini rahasia kita.")


def begin_waiting(phone: BrowserContext, locale: str = "id", **values: str) -> Page:
    """A tab that sent its submission while offline."""
    page = open_form(phone, locale)
    fill(page, **values)
    send(page)
    panel(page).to_contain_text(WAITING[locale])
    return page


def come_online(page: Page) -> None:
    page.evaluate("dispatchEvent(new Event('online'))")


def personal_words_stored(page: Page) -> list[str]:
    storage = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    return [word for word in PERSONAL if word in storage]


# Waiting


@both_languages
def test_offline_a_submission_is_queued_and_nothing_typed_is_lost(
    phone: BrowserContext, network: Network, locale: str
) -> None:
    page = begin_waiting(phone, locale)

    assert page.locator("#business_name").input_value() == "Salon Melati"
    expect(page.locator("[data-countdown]")).not_to_be_empty()
    expect(page.locator("[data-submit]")).to_have_attribute("aria-disabled", "false")
    assert not page.locator("[data-whatsapp-fallback]").is_visible()
    expect(page.locator("[data-panel]")).to_be_in_viewport()
    page.wait_for_function("document.querySelector('[data-countdown]').textContent.length > 0")
    with page.expect_request("**/api/leads"):
        pass  # it tries again by itself
    assert len(network.keys) == 1


@both_languages
def test_a_closed_tab_costs_no_lead(
    phone: BrowserContext, network: Network, database: Database, locale: str
) -> None:
    page = open_form(phone, locale)
    fill(page)
    fill_the_rest(page)
    send(page)
    panel(page).to_contain_text(WAITING[locale])
    page.close()

    network.answer = None
    page = open_form(phone, locale)
    ref = wait_for_thanks(page, locale)

    (lead,) = stored(database)
    assert (lead["ref"], lead["locale"]) == (ref, locale)
    assert lead["message"] == "Ini rahasia kita."
    assert len(network.tries) > 1
    assert len(network.keys) == 1
    bodies = [body for _, _, body in network.tries]
    assert all(body == bodies[0] for body in bodies)
    assert personal_words_stored(page) == []


def test_a_tab_closed_before_the_first_answer_costs_no_lead(
    phone: BrowserContext, network: Network, database: Database
) -> None:
    network.answer = silent
    page = open_form(phone)
    fill(page)
    with page.expect_request("**/api/leads"):
        send(page)
    page.close()

    network.answer = None
    page = open_form(phone)
    ref = wait_for_thanks(page)

    assert [lead["ref"] for lead in stored(database)] == [ref]
    assert len(network.keys) == 1


def test_reopening_shows_the_waiting_submission_at_the_top(
    phone: BrowserContext, network: Network
) -> None:
    begin_waiting(phone).close()
    page = open_form(phone)

    panel(page).to_contain_text(WAITING["id"])
    assert page.locator("#business_name").input_value() == "Salon Melati"
    assert page.locator("#consent").is_checked()
    top = page.locator("[data-panel]").bounding_box()
    first = page.locator("#business_name").bounding_box()
    assert top is not None
    assert first is not None
    assert top["y"] < first["y"]


def test_the_visitor_can_send_at_once_what_waits(
    phone: BrowserContext, network: Network, database: Database
) -> None:
    network.answer = answer_with(503, retry_after=300, error="persistence_failed")
    page = begin_waiting(phone)
    expect(page.locator("[data-countdown]")).to_contain_text("5 menit")

    network.answer = None
    page.get_by_role("button", name="Kirim sekarang").click()

    ref = wait_for_thanks(page)
    assert [lead["ref"] for lead in stored(database)] == [ref]
    assert len(network.keys) == 1


def test_a_429_is_retried_after_the_servers_retry_after(
    phone: BrowserContext, network: Network, database: Database
) -> None:
    network.answer = answer_with(429, retry_after=6, error="rate_limited")
    page = begin_waiting(phone)
    network.answer = None
    page.wait_for_timeout(2500)  # past the gap kept between tries on events
    come_online(page)

    wait_for_thanks(page)

    (_, first, _), (_, second, _) = network.tries
    assert 5.5 < second - first < 9
    assert len(network.keys) == 1
    assert len(stored(database)) == 1


def test_an_answer_that_the_lead_is_queued_counts_as_sent(
    phone: BrowserContext, network: Network
) -> None:
    network.answer = answer_with(202, success=True, queued=True, id="0", ref="ALFA-7K2QX")
    page = open_form(phone)
    fill(page)
    send(page)
    assert wait_for_thanks(page) == "ALFA-7K2QX"
    assert personal_words_stored(page) == []


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503])
def test_a_transient_failure_is_retried(
    phone: BrowserContext, network: Network, status: int
) -> None:
    network.answer = answer_with(status, error="whatever")
    begin_waiting(phone)


def test_a_captive_portals_login_page_is_no_success(
    phone: BrowserContext, network: Network
) -> None:
    network.answer = lambda route: route.fulfill(
        status=200, content_type="text/html", body="<h1>Hi"
    )
    begin_waiting(phone)


# Several tabs, several submissions


@pytest.mark.parametrize("locks", ["web-locks", "lease"])
@both_languages
def test_two_tabs_send_a_queued_submission_once_and_both_show_the_outcome(
    phone: BrowserContext, network: Network, database: Database, locale: str, locks: str
) -> None:
    if locks == "lease":
        phone.add_init_script(NO_LOCKS)
    first_tab = begin_waiting(phone, locale)
    second_tab = open_form(phone, locale)
    panel(second_tab).to_contain_text(WAITING[locale])
    second_tab.wait_for_timeout(2500)

    under_way: list[Route] = []
    network.answer = under_way.append
    come_online(first_tab)
    second_tab.wait_for_timeout(3000)  # past the gap kept between tries on events
    come_online(second_tab)
    second_tab.wait_for_timeout(500)
    (only,) = under_way  # one tab at a time
    only.continue_()
    refs = {wait_for_thanks(first_tab, locale), wait_for_thanks(second_tab, locale)}

    assert {lead["ref"] for lead in stored(database)} == refs
    assert len(stored(database)) == 1
    assert len(network.keys) == 1
    assert personal_words_stored(first_tab) == []


@both_languages
def test_a_tab_with_another_draft_shows_the_outcome_and_keeps_the_draft(
    phone: BrowserContext, network: Network, database: Database, locale: str
) -> None:
    other = open_form(phone, locale)
    other.locator("#business_name").fill("Salon Kenanga")
    waiting = begin_waiting(phone, locale)
    panel(other).to_contain_text(WAITING[locale])
    waiting.close()

    network.answer = None
    other.wait_for_timeout(2500)
    come_online(other)
    panel(other).to_contain_text(SENT[locale])

    assert other.locator("#business_name").input_value() == "Salon Kenanga"
    (lead,) = stored(database)
    assert lead["business_name"] == "Salon Melati"
    assert personal_words_stored(other) == []


def test_a_second_salon_does_not_push_out_the_first(
    phone: BrowserContext, network: Network, database: Database
) -> None:
    page = begin_waiting(phone)
    page.locator("#business_name").fill("Salon Kenanga")
    send(page)
    expect(page.get_by_role("button", name="Kirim sekarang")).to_be_visible()
    page.close()

    network.answer = None
    page = open_form(phone)
    wait_for_thanks(page)
    page.wait_for_load_state("networkidle")  # the other is sent from here, if not before

    names = {lead["business_name"] for lead in stored(database)}
    assert names == {"Salon Melati", "Salon Kenanga"}
    assert personal_words_stored(page) == []


def test_a_corrected_submission_replaces_the_queued_one(
    phone: BrowserContext, network: Network, database: Database
) -> None:
    page = begin_waiting(phone)
    page.locator("#city").fill("Binjai")
    expect(page.get_by_role("button", name="Kirim permintaan")).to_be_visible()
    send(page)
    expect(page.get_by_role("button", name="Kirim sekarang")).to_be_visible()
    assert len(network.keys) == 2

    network.answer = None
    send(page)
    wait_for_thanks(page)

    assert [lead["city"] for lead in stored(database)] == ["Binjai"]


def test_the_thank_you_page_sends_a_queued_submission_and_the_form_says_so(
    phone: BrowserContext, network: Network, database: Database
) -> None:
    begin_waiting(phone).close()
    network.answer = None
    page = phone.new_page()
    with page.expect_response("**/api/leads"):
        page.goto(THANKS_PATHS["id"])
    page.wait_for_function("!JSON.stringify(localStorage).includes('Melati')")
    (lead,) = stored(database)

    page.goto("/")
    panel(page).to_contain_text(f"Terkirim. Kode Anda {lead['ref']}")
    page.reload()
    panel(page).to_have_text("")


# Refused, given up


@pytest.mark.parametrize("closed", [False, True])
@both_languages
def test_a_refusal_after_waiting_puts_the_faults_beside_the_fields(
    phone: BrowserContext, network: Network, database: Database, locale: str, closed: bool
) -> None:
    page = begin_waiting(phone, locale, phone_whatsapp="+999 1234567890")
    if closed:
        page.close()
    network.answer = None
    if closed:
        page = open_form(phone, locale)
    else:
        page.wait_for_timeout(2500)
        come_online(page)

    expect(page.locator("#form-errors")).to_be_focused()
    assert visible_errors(page) == {"phone_whatsapp"}
    assert page.locator("#phone_whatsapp").input_value() == "+999 1234567890"
    panel(page).to_have_text("")

    page.locator("#phone_whatsapp").fill("0812 3456 7890")
    page.reload()
    assert page.locator("#phone_whatsapp").input_value() == "0812 3456 7890"
    page.locator("#consent").check()
    send(page)
    ref = wait_for_thanks(page, locale)
    assert [lead["ref"] for lead in stored(database)] == [ref]
    assert personal_words_stored(page) == []


def test_a_refusal_without_faults_says_so_and_is_not_repeated(
    phone: BrowserContext, network: Network
) -> None:
    network.answer = answer_with(403, error="origin_not_allowed")
    page = open_form(phone)
    fill(page)
    send(page)
    panel(page).to_contain_text("ditolak")
    page.wait_for_timeout(5000)
    assert len(network.tries) == 1
    assert page.locator("#business_name").input_value() == "Salon Melati"


def offer_whatsapp(phone: BrowserContext, path: str) -> None:
    """The page as it will be once sales' number is filled in."""

    def fill_in(route: Route) -> None:
        answer = route.fetch()
        empty, filled = (
            f'name="sales-whatsapp" content="{number}"' for number in ("", "+6281200000000")
        )
        assert empty in answer.text()
        route.fulfill(response=answer, body=answer.text().replace(empty, filled))

    phone.route(lambda url: urlsplit(url).path == path, fill_in)


@pytest.mark.parametrize("number", [False, True])
@both_languages
def test_after_a_day_a_queued_submission_is_shown_as_not_sent_with_other_contacts(
    phone: BrowserContext, network: Network, database: Database, locale: str, number: bool
) -> None:
    if number:
        offer_whatsapp(phone, FORM_PATHS[locale])
    page = phone.new_page()
    page.clock.install()
    page.goto(FORM_PATHS[locale])
    fill(page)
    send(page)
    panel(page).to_contain_text(WAITING[locale])
    page.clock.fast_forward("23:00:01")
    panel(page).to_contain_text({"id": "lalu berhenti", "en": "then stopped"}[locale])
    tries = len(network.tries)
    come_online(page)
    page.clock.run_for(20_000)
    assert len(network.tries) == tries

    chat = page.locator("[data-whatsapp-fallback]")
    assert chat.is_visible() == number
    assert ("WhatsApp" in page.locator("[data-panel-text]").inner_text()) == number
    if number:
        address = urlsplit(str(chat.get_attribute("href")))
        assert (address.netloc, address.path) == ("wa.me", "/6281200000000")
        (text,) = parse_qs(address.query)["text"]
        assert "Salon Melati" in text
        assert "BARBER" in text
    assert page.locator("#business_name").input_value() == "Salon Melati"

    network.answer = None
    send(page)
    ref = wait_for_thanks(page, locale)
    assert [lead["ref"] for lead in stored(database)] == [ref]
    assert len(network.keys) == 2  # the old key may be forgotten by now


# Drafts


@both_languages
def test_a_reload_keeps_the_draft_until_it_is_cleared(
    phone: BrowserContext, network: Network, locale: str
) -> None:
    page = open_form(phone, locale)
    fill(page)
    fill_the_rest(page)
    page.close()

    page = open_form(phone, locale)
    panel(page).to_contain_text(DRAFT[locale])
    assert page.locator("#business_name").input_value() == "Salon Melati"
    assert page.locator("#message").input_value() == "Ini rahasia kita."
    assert page.locator("#message").is_visible()
    assert page.locator("#salon_type-barber").is_checked()
    assert not page.locator("#consent").is_checked()  # given anew each time
    page.reload()
    panel(page).to_contain_text(DRAFT[locale])

    page.locator("[data-clear]").click()
    expect(page.locator("#business_name")).to_be_empty()
    assert personal_words_stored(page) == []
    panel(page).to_contain_text({"id": "sudah dihapus", "en": "deleted"}[locale])
    page.reload()
    expect(page.locator("#business_name")).to_be_empty()
    panel(page).to_have_text("")
    assert network.tries == []


def test_the_two_languages_share_a_draft(phone: BrowserContext) -> None:
    page = open_form(phone)
    page.locator("#city").fill("Medan")
    page.get_by_role("link", name="English").click()
    page.wait_for_url("**/en")
    panel(page).to_contain_text(DRAFT["en"])
    assert page.locator("#city").input_value() == "Medan"


def test_a_draft_is_gone_after_a_day(phone: BrowserContext) -> None:
    page = open_form(phone)
    page.locator("#city").fill("Medan")
    page.close()
    page = phone.new_page()
    page.clock.install(time=time.time() + 24 * 3600 + 1)
    page.goto("/")
    assert page.locator("#city").input_value() == ""
    assert personal_words_stored(page) == []


def test_what_waits_can_be_stopped_and_taken_off_the_device(
    phone: BrowserContext, network: Network, database: Database
) -> None:
    page = begin_waiting(phone)
    assert "Melati" in personal_words_stored(page)
    page.get_by_role("button", name="Berhenti dan hapus").click()
    expect(page.locator("#business_name")).to_be_empty()
    assert personal_words_stored(page) == []

    network.answer = None
    page.reload()
    page.wait_for_timeout(2000)
    assert stored(database) == []


# Success leaves nothing


@both_languages
def test_after_success_the_device_holds_nothing_personal(
    phone: BrowserContext, network: Network, database: Database, locale: str
) -> None:
    network.answer = None
    page = open_form(phone, locale)
    fill(page)
    fill_the_rest(page)
    assert {"rahasia", NUMBER[0]} <= set(personal_words_stored(page))
    send(page)
    wait_for_thanks(page, locale)
    assert personal_words_stored(page) == []

    page.go_back()
    expect(page.locator("#business_name")).to_be_empty()
    assert personal_words_stored(page) == []
    assert len(stored(database)) == 1


@both_languages
def test_the_form_works_with_storage_blocked(
    phone: BrowserContext, network: Network, database: Database, locale: str
) -> None:
    phone.add_init_script(NO_STORAGE)
    page = begin_waiting(phone, locale)
    panel(page).to_contain_text({"id": "Jangan tutup", "en": "keep this page open"}[locale])

    network.answer = None  # the next try comes by itself
    ref = wait_for_thanks(page, locale)
    assert [lead["ref"] for lead in stored(database)] == [ref]
    assert len(network.keys) == 1


# What goes along


def test_the_time_it_took_to_fill_in_is_sent(phone: BrowserContext, network: Network) -> None:
    network.answer = None
    page = open_form(phone)
    fill(page)
    page.wait_for_timeout(1100)
    send(page)
    wait_for_thanks(page)
    assert 1 <= int(network.headers["x-form-seconds"]) < 30


def test_a_long_campaign_link_never_costs_a_lead(
    phone: BrowserContext, network: Network, database: Database
) -> None:
    network.answer = None
    page = phone.new_page()
    page.goto(f"/?utm_campaign={'%F0%9F%92%87' * 150}&utm_term={'a' * 4000}&utm_content=x%00y")
    fill(page)
    send(page)
    wait_for_thanks(page)

    (lead,) = stored(database)
    assert lead["utm_campaign"] == "💇" * 150
    assert lead["utm_term"] == "a" * 200
    assert lead["utm_content"] == "xy"
    assert len(network.tries) == 1
