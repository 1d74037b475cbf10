"""The pages in a real browser: on a phone, on a bad line, with the keyboard, without JavaScript."""

from collections.abc import Iterator

import psycopg
import pytest
from playwright.sync_api import Browser, Page, Route, expect
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.leads import consent, validators
from tests.conftest import eventually
from tests.fix_browser import PHONE_SCREEN, browser, collect_complaints

__all__ = ["browser"]

type Database = psycopg.Connection[DictRow]

FORM_PATHS = {"id": "/", "en": "/en"}
THANKS_PATHS = {"id": "/terima-kasih", "en": "/en/thank-you"}
EVERY_PATH = [
    *FORM_PATHS.values(),
    *(f"{path}?ref=ALFA-7K2QX" for path in THANKS_PATHS.values()),
    "/no-such-page",
]


@pytest.fixture
def page(browser: Browser, platform: Platform, database: Database) -> Iterator[Page]:
    """A phone with JavaScript, at the site; the database is empty."""
    with browser.new_context(base_url=platform.url, viewport=PHONE_SCREEN) as context:
        yield context.new_page()


@pytest.fixture
def page_without_javascript(
    browser: Browser, platform: Platform, database: Database
) -> Iterator[Page]:
    with browser.new_context(
        base_url=platform.url, viewport=PHONE_SCREEN, java_script_enabled=False
    ) as context:
        yield context.new_page()


@pytest.fixture
def complaints(page: Page) -> list[str]:
    heard: list[str] = []
    collect_complaints(page, heard)
    return heard


def fill(page: Page, **values: str) -> None:
    """Every required field, with `values` in place of a good visitor's."""
    typed = {
        "business_name": "Salon Melati",
        "contact_name": "Sri Wahyuni",
        "phone_whatsapp": "0812-3456-7890",
        "city": "Medan",
    }
    for name, value in (typed | values).items():
        page.locator(f"#{name}").fill(value)
    page.locator("#salon_type-barber").check()
    page.locator("#consent").check()


def send(page: Page) -> None:
    page.locator("[data-submit]").click()


def error(page: Page, name: str) -> str:
    """The message beside a field, empty when there is none."""
    return page.locator(f'[data-error-for="{name}"]').inner_text().strip()


def visible_errors(page: Page) -> set[str]:
    places = page.locator(".field [data-error-for]")
    names = [str(place.get_attribute("data-error-for")) for place in places.all()]
    return {name for name in names if error(page, name)}


def stored(database: Database) -> list[DictRow]:
    return database.execute("select * from leads order by created_at").fetchall()


def subjects(platform: Platform) -> list[str]:
    return [record["body"]["subject"] for record in platform.resend.received()]


def wait_for_thanks(page: Page, locale: str = "id") -> str:
    """The reference on the thank-you page, once it is there."""
    page.wait_for_url(f"**{THANKS_PATHS[locale]}?ref=*")
    return page.locator("[data-ref]").inner_text()


# Sending


def test_a_visitor_sends_the_form_and_reads_the_reference_of_the_stored_lead(
    page: Page,
    platform: Platform,
    database: Database,
    complaints: list[str],
) -> None:
    page.goto("/?utm_source=instagram&name=secret")
    fill(page)
    send(page)

    ref = wait_for_thanks(page)

    (lead,) = stored(database)
    assert lead["ref"] == ref
    assert lead["business_name"] == "Salon Melati"
    assert lead["phone_whatsapp"] == "+6281234567890"
    assert lead["salon_type"] == "BARBER"
    assert lead["locale"] == "id"
    assert lead["utm_source"] == "instagram"
    assert lead["page_url_current"] == f"{platform.url}/?utm_source=instagram"
    assert eventually(lambda: subjects(platform)) == ["New Lead: Salon Melati"]
    assert complaints == []


def test_a_visitor_without_javascript_sends_the_form_and_reads_the_reference(
    page_without_javascript: Page, database: Database
) -> None:
    page = page_without_javascript
    statuses: list[int] = []
    page.on(
        "response",
        lambda response: statuses.append(response.status) if "/api/" in response.url else None,
    )
    page.goto("/")
    fill(page)
    send(page)

    ref = wait_for_thanks(page)

    assert statuses == [303]
    (lead,) = stored(database)
    assert (lead["ref"], lead["salon_type"], lead["locale"]) == (ref, "BARBER", "id")


def test_the_english_page_stays_english_to_the_end(page: Page, database: Database) -> None:
    page.goto("/")
    page.get_by_role("link", name="English").click()
    page.wait_for_url("**/en")
    send(page)
    assert error(page, "business_name") == "Please fill this in."

    fill(page)
    send(page)

    ref = wait_for_thanks(page, "en")
    assert "Thank you" in page.locator("h1").inner_text()
    (lead,) = stored(database)
    assert (lead["ref"], lead["locale"]) == (ref, "en")


def test_the_optional_part_is_stored_too(page: Page, database: Database) -> None:
    page.goto("/")
    fill(page)
    page.locator("summary").click()
    page.locator("#email").fill("sri@example.com")
    page.locator("#chair_count").fill("6")
    page.locator("#specialization").fill("Pewarnaan")
    page.locator("#current_brands_used").fill("Farmavita")
    page.locator("#monthly_spend_range").select_option("5-10 jt")
    page.locator("#message").fill("Halo,\nsaya ingin tahu harga.")
    send(page)
    wait_for_thanks(page)

    (lead,) = stored(database)
    assert lead["email"] == "sri@example.com"
    assert lead["chair_count"] == 6
    assert lead["specialization"] == "Pewarnaan"
    assert lead["current_brands_used"] == "Farmavita"
    assert lead["monthly_spend_range"] == "5-10 jt"
    assert lead["message"] == "Halo,\nsaya ingin tahu harga."


@pytest.mark.parametrize("locale", ["id", "en"])
def test_the_sentence_agreed_to_is_the_one_on_record(page: Page, locale: str) -> None:
    page.goto(FORM_PATHS[locale])
    version = page.locator("#consent_version").input_value()
    assert version == consent.CURRENT_VERSION
    shown = page.locator("label[for=consent]").inner_text().strip()
    assert shown == consent.SENTENCES[version][locale]


# The number


@pytest.mark.parametrize(
    "typed",
    [
        "0812-3456-7890",
        "+62 812 3456 7890",
        "62812.345.6789",
        "81234567890",
        " (0859) 1234 5678 9",
        "+62 (0)811 123 456",
    ],
)
def test_a_mobile_number_is_shown_as_it_will_be_stored(page: Page, typed: str) -> None:
    page.goto("/en")
    page.locator("#phone_whatsapp").fill(typed)
    hint = page.locator("#phone_whatsapp-hint")
    expect(hint).to_contain_text("We store it as +62")
    shown = hint.inner_text().removeprefix("We store it as ").replace(" ", "")
    assert shown == validators.normalize_phone(typed)


@pytest.mark.parametrize("typed", ["", "12345", "0812", "08123456789012345", "+65 9123 4567"])
def test_a_number_that_only_the_server_can_read_is_not_guessed(page: Page, typed: str) -> None:
    page.goto("/")
    page.locator("#phone_whatsapp").fill("081234567890")
    expect(page.locator("#phone_whatsapp-hint")).to_have_text(
        "Kami simpan sebagai +62 812 3456 7890"
    )
    page.locator("#phone_whatsapp").fill(typed)
    expect(page.locator("#phone_whatsapp-hint")).to_have_text("Contoh: 0812 3456 7890")


# Faults


def test_an_empty_form_is_not_sent_and_the_summary_of_faults_has_the_focus(page: Page) -> None:
    requested_urls: list[str] = []
    page.on("request", lambda request: requested_urls.append(request.url))
    page.goto("/")
    requested_urls.clear()
    send(page)

    expect(page.locator("#form-errors")).to_be_focused()
    expect(page.locator("#form-errors")).to_be_in_viewport()
    assert visible_errors(page) == {
        "business_name",
        "contact_name",
        "phone_whatsapp",
        "city",
        "salon_type",
        "consent",
    }
    assert not any("/api/leads" in url for url in requested_urls)


def test_an_error_only_the_server_finds_is_shown_beside_its_field(
    page: Page, database: Database, complaints: list[str]
) -> None:
    page.goto("/")
    fill(page, phone_whatsapp="+999 1234567890")
    page.locator("summary").click()
    page.locator("#email").fill("sri@salon")
    page.locator("summary").click()
    send(page)

    expect(page.locator("#form-errors")).to_be_focused()
    assert visible_errors(page) == {"phone_whatsapp", "email"}
    assert page.locator("#email").is_visible()
    assert page.locator("#phone_whatsapp").get_attribute("aria-invalid") == "true"
    links = page.locator("[data-errors-list] a")
    assert [link.get_attribute("href") for link in links.all()] == ["#phone_whatsapp", "#email"]
    links.first.click()
    expect(page.locator("#phone_whatsapp")).to_be_focused()
    assert stored(database) == []
    assert complaints == []


def test_a_corrected_form_is_sent(page: Page, database: Database) -> None:
    page.goto("/")
    fill(page, phone_whatsapp="+999 1234567890")
    send(page)
    expect(page.locator("#phone_whatsapp-error")).not_to_be_empty()

    page.locator("#phone_whatsapp").fill("+62 812 3456 7890")
    assert visible_errors(page) == set()
    send(page)

    ref = wait_for_thanks(page)
    assert [lead["ref"] for lead in stored(database)] == [ref]


def test_the_error_page_without_javascript_keeps_the_typed_values(
    page_without_javascript: Page, database: Database
) -> None:
    page = page_without_javascript
    page.goto("/")
    page.locator("summary").click()
    page.locator("#message").fill('Harga "grosir"?\n<b>Terima kasih</b> & salam')
    page.locator("#monthly_spend_range").select_option("10-25 jt")
    fill(page, business_name="A", phone_whatsapp="12345", contact_name="Sri & Ana")
    send(page)
    page.wait_for_url("**/api/leads")

    assert visible_errors(page) == {"business_name", "phone_whatsapp"}
    assert page.locator("[data-errors-summary]").is_visible()
    assert page.locator("#business_name").input_value() == "A"
    assert page.locator("#phone_whatsapp").input_value() == "12345"
    assert page.locator("#contact_name").input_value() == "Sri & Ana"
    message = page.locator("#message").input_value()
    assert message == 'Harga "grosir"?\n<b>Terima kasih</b> & salam'
    assert page.locator("#monthly_spend_range").input_value() == "10-25 jt"
    assert page.locator("#salon_type-barber").is_checked()
    assert page.locator("#consent").is_checked()
    assert stored(database) == []


def test_a_corrected_form_is_sent_without_javascript(
    page_without_javascript: Page, database: Database
) -> None:
    page = page_without_javascript
    page.goto("/en")
    fill(page, phone_whatsapp="12345")
    send(page)
    page.wait_for_url("**/api/leads")
    page.locator("#phone_whatsapp").fill("0812 3456 7890")
    send(page)

    ref = wait_for_thanks(page, "en")
    (lead,) = stored(database)
    assert (lead["ref"], lead["locale"]) == (ref, "en")


def test_the_summary_without_javascript_names_each_fault_and_leads_to_it(
    page_without_javascript: Page,
) -> None:
    page = page_without_javascript
    page.goto("/")
    fill(page, business_name="A", phone_whatsapp="12345")
    send(page)
    page.wait_for_url("**/api/leads")

    links = page.locator("[data-errors-list] a").all()
    assert [link.get_attribute("href") for link in links] == ["#business_name", "#phone_whatsapp"]
    texts = [link.inner_text() for link in links]
    assert "Nama salon" in texts[0]
    assert "Nomor WhatsApp" in texts[1]
    expect(page.locator("#form-errors")).to_be_focused()


def test_a_fault_in_the_optional_part_is_not_folded_away_without_javascript(
    page_without_javascript: Page,
) -> None:
    page = page_without_javascript
    page.goto("/")
    fill(page)
    page.locator("summary").click()
    page.locator("#email").fill("sri@salon")  # good enough for the browser's own check
    send(page)
    page.wait_for_url("**/api/leads")

    assert visible_errors(page) == {"email"}
    assert page.locator("#email").is_visible()


# The line. What waits for it is in test_browser_queue.py.


def test_an_answer_lost_on_the_way_does_not_store_the_lead_twice(
    page: Page, database: Database
) -> None:
    keys: list[str] = []

    def lose_the_first_answer(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fetch()
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/api/leads", lose_the_first_answer)
    page.goto("/")
    fill(page)
    send(page)

    ref = wait_for_thanks(page)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert [lead["ref"] for lead in stored(database)] == [ref]


def test_the_form_can_be_sent_again_after_coming_back_from_the_thank_you_page(
    page: Page, database: Database
) -> None:
    page.goto("/")
    fill(page)
    send(page)
    wait_for_thanks(page)
    page.go_back()
    fill(page, business_name="Salon Kenanga")
    send(page)
    page.wait_for_url("**/terima-kasih?ref=*")
    names = [lead["business_name"] for lead in stored(database)]
    assert names == ["Salon Melati", "Salon Kenanga"]


# Every page


@pytest.mark.parametrize("path", EVERY_PATH)
def test_a_page_raises_no_error_and_breaks_no_policy(
    page: Page, complaints: list[str], path: str
) -> None:
    answer = page.goto(path)
    assert answer is not None
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    page.wait_for_load_state("networkidle")
    assert complaints == []


@pytest.mark.parametrize("path", EVERY_PATH)
def test_a_page_fits_a_screen_of_320_pixels(page: Page, path: str) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(path)
    for folded in page.locator("summary").all():
        folded.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("path", EVERY_PATH)
def test_every_control_has_an_accessible_name(page: Page, path: str) -> None:
    page.goto(path)
    for folded in page.locator("summary").all():
        folded.click()
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")
    controls = {"textbox", "radio", "radiogroup", "checkbox", "combobox", "button", "link"}
    nameless = [
        node
        for node in tree["nodes"]
        if node.get("role", {}).get("value") in controls
        and not node.get("name", {}).get("value", "").strip()
    ]
    assert nameless == []


@pytest.mark.parametrize("path", FORM_PATHS.values())
def test_everything_to_be_tapped_is_at_least_44_pixels_high(page: Page, path: str) -> None:
    page.goto(path)
    page.locator("summary").click()
    tapped = (
        "main a, .language, button, summary, select, textarea, .choice, .consent, .field > input"
    )
    boxes = [(each, each.bounding_box()) for each in page.locator(tapped).all()]
    small = [str(each) for each, box in boxes if box is not None and box["height"] < 44]
    assert small == []


@pytest.mark.parametrize("path", FORM_PATHS.values())
def test_the_honeypot_is_neither_visible_nor_reached_by_tab(page: Page, path: str) -> None:
    page.goto(path)
    page.locator("summary").click()
    assert not page.locator("#company").is_visible()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"business_name", "email", "consent"} <= reached
    assert "company" not in reached


def test_a_thank_you_page_without_a_reference_shows_no_empty_code(page: Page) -> None:
    page.goto("/terima-kasih")
    assert page.locator("h1").is_visible()
    assert not page.locator("[data-ref-block]").is_visible()


def test_an_unknown_address_is_answered_in_both_languages(page: Page) -> None:
    answer = page.goto("/no-such-page")
    assert answer is not None
    assert answer.status == 404
    assert page.get_by_text("Halaman ini tidak ada").is_visible()
    assert page.get_by_text("This page does not exist").is_visible()
