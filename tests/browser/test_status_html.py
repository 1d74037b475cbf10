"""The status page in a real Chromium: what it says, to whom, and when nothing can be read.

/api/status is answered by the test, with answers that the document allows; all else is the real
site.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from dev.platform.local_platform import Platform
from lib.monitoring import status_page
from tests.fix_browser import PHONE_SCREEN, browser, complaints, page, wait_until
from tests.monitoring import status_answers
from tests.test_openapi import DOCUMENT, check

__all__ = ["browser", "complaints", "page"]

SCHEMA = DOCUMENT["components"]["schemas"]["Status"]
ADDRESSES = {"id": "/status", "en": "/status?lang=en"}


class Api:
    """What /api/status answers; None: it does not."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.answer = answer
        self.request_count = 0

    def __call__(self, route: Route) -> None:
        self.request_count += 1
        if self.answer is None:
            route.fulfill(status=503, json={"error": "temporarily_unavailable"})
        else:
            route.fulfill(json=self.answer)


@pytest.fixture
def api() -> Api:
    return Api(status_answers.good_day())


@pytest.fixture
def context(browser: Browser, platform: Platform, api: Api) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=platform.url, viewport=PHONE_SCREEN) as context:
        context.route("**/api/status", api)
        yield context


def sentence(page: Page) -> str:
    return page.locator("[data-sentence]").inner_text()


def tick(page: Page, seconds: int) -> None:
    page.clock.run_for(seconds * 1000)


@pytest.mark.parametrize("name", status_answers.ANSWERS)
def test_the_tests_answers_are_as_documented(name: str) -> None:
    check(status_answers.ANSWERS[name](), SCHEMA)


@pytest.mark.parametrize("name", status_answers.ANSWERS)
@pytest.mark.parametrize("lang", ADDRESSES)
@pytest.mark.parametrize("width", [320, 360, 1280])
def test_every_state_fits_and_breaks_no_rule_of_the_page(
    page: Page, api: Api, complaints: list[str], name: str, lang: str, width: int
) -> None:
    api.answer = status_answers.ANSWERS[name]()
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(ADDRESSES[lang])
    expect(page.locator(".service")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.lang") == lang
    assert not re.search(r"undefined|\bnull\b|NaN|\{\w+\}|-0", page.locator("body").inner_text())
    assert complaints == []


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        ("queued", "Send the form as usual: we keep it and reply afterwards."),
        ("mailed", "Send the form as usual: we keep it and reply afterwards."),
        ("refused", "We cannot take forms just now: your device keeps yours and sends it later."),
    ],
)
def test_the_headline_says_what_becomes_of_a_form_sent_now(
    page: Page, api: Api, effect: str, words: str
) -> None:
    api.answer = status_answers.outage()
    description = f"{status_page.INDICATORS['critical']}: {status_page.FORM_EFFECTS[effect]}"
    api.answer["status"] = {"indicator": "critical", "description": description}
    page.goto("/status?lang=en")
    expect(page.locator("[data-sentence]")).to_have_text(
        f"Our services are disrupted. We are working on it. {words}"
    )


def test_the_headline_does_not_claim_to_know_when_nothing_can_be_read(page: Page, api: Api) -> None:
    api.answer = status_answers.without_data()
    api.answer["status"] = {
        "indicator": "major",
        "description": status_page.UNKNOWN_DESCRIPTION,
    }
    page.goto("/status?lang=en")
    expect(page.locator("[data-sentence]")).to_contain_text(
        "We cannot tell just now how things are"
    )


def test_a_good_day_is_one_calm_sentence_and_the_figures(page: Page) -> None:
    page.goto("/status?lang=en")
    expect(page.locator("[data-sentence]")).to_have_text("All services are working.")
    leads = page.locator('[data-key="leads"]')
    expect(leads).to_contain_text("/api/leads · SLA 1 s")
    rows = leads.locator(".service-figures tr").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    assert [[cell.replace("\xa0", " ") for cell in row] for row in rows] == [
        ["Window", "1 hour", "24 hours", "30 days"],
        ["Verdict", "Insufficient data", "Met", "Met"],
        ["Within 1 s", "99.99%", "99.99%", "97.12%"],  # never rounded up to 100
        ["p95", "200 ms\n180–216 ms", "200 ms\n180–216 ms", "1.2 s\n1.08–1.3 s"],
        ["Errors", "0%", "0%", "0.05%"],
        ["Requests", "12", "1,290", "38,120"],
    ]
    assert "Within" not in page.locator('[data-key="rum"] .service-figures').inner_text()
    expect(page.locator("[data-current]")).to_be_empty()


def test_days_are_told_apart_by_shape_and_not_by_colour_alone(page: Page) -> None:
    page.goto("/status")
    shapes = page.locator('[data-bars="leads"]').evaluate(
        """svg => Object.fromEntries([...Map.groupBy(svg.querySelectorAll(".bar"), (bar) =>
           bar.classList[1])].map(([kind, bars]) => [kind, {n: bars.length,
           drawn: bars[0].getAttribute("y") + "/" + bars[0].getAttribute("height")}]))"""
    )
    counted = {kind: shape["n"] for kind, shape in shapes.items()}
    # An outage, and a day of too few requests, is two pieces, one above the other.
    assert counted == {"no_data": 19, "few": 4, "missed": 1, "outage": 2, "met": 67}
    assert len({shape["drawn"] for shape in shapes.values()}) == 5
    expect(page.locator("[data-legend] li")).to_have_count(5)


def test_the_bars_are_read_by_keyboard_and_by_a_screen_reader(page: Page) -> None:
    page.goto("/status?lang=en")
    bars = page.get_by_role("slider", name=re.compile("Partnership form: the last 90 days"))
    reading = page.locator("#leads-summary")
    summary = "71 of 90 days known; 98."
    expect(reading).to_contain_text(summary)
    expect(bars).to_have_attribute("aria-describedby", "leads-summary")
    bars.focus()
    page.keyboard.press("ArrowLeft")
    expect(bars).to_have_attribute("aria-valuenow", "90")
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    expect(bars).to_have_attribute("aria-valuetext", re.compile("outage; 31% within .* 58% err"))
    expect(reading).to_contain_text("58% errors; 640 requests")
    page.keyboard.press("Home")
    expect(bars).to_have_attribute("aria-valuetext", re.compile(r"^\d+ \w+: no data$"))
    page.keyboard.press("End")
    expect(bars).to_have_attribute("aria-valuenow", "90")
    expect(bars).to_be_focused()
    page.keyboard.press("Escape")
    expect(reading).to_contain_text(summary)
    page.locator('[data-days="leads"] summary').click()
    expect(page.locator('[data-days="leads"] tbody tr')).to_have_count(90)


def test_an_incident_is_told_with_its_newest_word_first(page: Page, api: Api) -> None:
    api.answer = status_answers.outage()
    page.goto("/status")
    expect(page.locator("[data-sentence]")).to_contain_text("Kami sedang menanganinya.")
    current = page.locator("[data-current] .incident")
    expect(current).to_have_count(1)
    expect(current).to_contain_text("Menyangkut: Formulir kemitraan, Daftar produk")
    assert current.locator(".updates strong").all_inner_texts() == [
        "Diketahui sebabnya",
        "Diselidiki",
    ]
    assert current.locator("[lang=en]").count() == 3, "what is English is read out as English"
    past = page.locator("[data-past] details")
    expect(past).to_have_count(1)
    expect(past).to_contain_text("selama 1 jam 24 menit")
    expect(past.locator(".updates")).to_be_hidden()


def test_an_incident_older_than_14_days_is_no_news(page: Page, api: Api) -> None:
    api.answer = status_answers.good_day()
    started = datetime.now(UTC) - timedelta(days=15)
    api.answer["incidents"][0]["started_at"] = status_answers.iso(started)
    page.goto("/status?lang=en")
    expect(page.locator("[data-past]")).to_have_text("No incidents.")


@pytest.mark.parametrize("mode", ["intake", "read_only"])
def test_maintenance_says_until_when_and_that_the_form_works(
    page: Page, api: Api, mode: str
) -> None:
    api.answer = status_answers.under_maintenance(mode=mode)
    page.goto("/status?lang=en")
    expect(page.locator("[data-sentence]")).to_have_text("Maintenance is under way.")
    announcements = page.locator("[data-announcements]")
    expect(announcements).to_contain_text(
        re.compile(r"until (\d+ \w+ )?\d\d:\d\d.WIB at the latest")
    )
    expect(announcements).to_contain_text("Send the form as usual")
    assert ("product list" in announcements.inner_text()) == (mode == "read_only")


# --- When it cannot be read.


def test_without_an_answer_and_without_a_copy_the_page_says_so_calmly(
    page: Page, api: Api, complaints: list[str]
) -> None:
    api.answer = None
    page.goto("/status")
    expect(page.locator("[data-sentence]")).to_have_text(
        "Status terkini sedang tidak dapat dibaca."
    )
    expect(page.locator("[data-when]")).to_contain_text("Formulir kemitraan tetap boleh dicoba")
    expect(page.locator("[data-services-section]")).to_be_hidden()
    assert complaints == []


def test_without_an_answer_the_last_copy_is_shown_with_its_age(
    page: Page, api: Api, complaints: list[str]
) -> None:
    page.clock.install()
    page.goto("/status?lang=en")
    expect(page.locator("[data-sentence]")).to_have_text("All services are working.")
    api.answer = None
    tick(page, 12 * 60)
    expect(page.locator("[data-sentence]")).to_have_text(
        "The current status cannot be read just now."
    )
    expect(page.locator("[data-when]")).to_contain_text("12 minutes ago")
    page.reload()
    expect(page.locator("[data-when]")).to_contain_text("12 minutes ago")
    expect(page.locator("[data-sentence]")).not_to_have_text("All services are working.")
    expect(page.locator(".service")).to_have_count(4)
    api.answer = status_answers.outage()
    tick(page, 31)
    expect(page.locator("[data-sentence]")).to_contain_text("Our services are disrupted.")
    expect(page.locator("main")).not_to_have_class(re.compile("stale"))
    assert complaints == []


def test_a_first_answer_that_is_slow_does_not_keep_the_copy_back(page: Page, api: Api) -> None:
    page.goto("/status?lang=en")
    expect(page.locator(".service")).to_have_count(4)
    waiting: list[Route] = []
    page.route("**/api/status", lambda route: waiting.append(route))
    page.clock.install(time=datetime.now(UTC) + timedelta(minutes=5))
    page.reload()
    expect(page.locator("[data-services-section]")).to_be_hidden()
    tick(page, 3)
    expect(page.locator("[data-when]")).to_contain_text("5 minutes ago")
    expect(page.locator(".service")).to_have_count(4)
    waiting[0].fulfill(json=api.answer)
    expect(page.locator("[data-sentence]")).to_have_text("All services are working.")


def test_one_failed_refresh_shows_no_message(page: Page, api: Api) -> None:
    page.clock.install()
    page.goto("/status?lang=en")
    expect(page.locator("[data-sentence]")).to_have_text("All services are working.")
    api.answer = None
    tick(page, 61)
    wait_until(page, lambda: api.request_count >= 3)
    assert sentence(page) == "All services are working."
    expect(page.locator("[data-when]")).to_contain_text("1 minute ago")


@pytest.mark.parametrize(
    "odd",
    [
        lambda route: route.fulfill(body="<html>"),
        lambda route: route.fulfill(json={"components": "?"}),
        lambda route: route.fulfill(json=[]),
        lambda route: route.abort(),
    ],
    ids=["no json", "another shape", "a list", "no line"],
)
def test_an_unreadable_answer_counts_as_no_answer(
    page: Page, api: Api, complaints: list[str], odd: Callable[[Route], None]
) -> None:
    page.goto("/status?lang=en")
    expect(page.locator(".service")).to_have_count(4)
    page.route("**/api/status", odd)
    page.clock.install(time=datetime.now(UTC) + timedelta(minutes=5))
    page.reload()
    expect(page.locator("[data-sentence]")).to_contain_text("cannot be read")
    expect(page.locator(".service")).to_have_count(4)
    page.evaluate("localStorage.setItem('alfa.status.1', '{\"body\":{\"components\":[1]}}')")
    page.reload()
    expect(page.locator("[data-sentence]")).to_contain_text("cannot be read")
    assert complaints == []


def test_figures_from_a_copy_and_none_at_all_are_told_apart(page: Page, api: Api) -> None:
    api.answer = status_answers.good_day()
    api.answer["data"]["source"] = "copy"
    page.goto("/status?lang=en")
    expect(page.locator("[data-when]")).to_contain_text("read from a copy")
    api.answer = status_answers.without_data()
    page.reload()
    expect(page.locator("[data-when]")).to_contain_text("There are no figures yet.")
    expect(page.locator("#leads-summary")).to_have_text("0 of 90 days known")


# --- Refreshing.

WATCH_CHANGES = """
window.changes = [];
new MutationObserver((records) => window.changes.push(...records.map((record) =>
  record.type + " " + (record.target.parentElement?.className || record.target.className))))
  .observe(document.querySelector("[data-services]"),
    {subtree: true, childList: true, attributes: true, characterData: true});
window.shifts = 0;
new PerformanceObserver((list) => { window.shifts += list.getEntries().length; })
  .observe({type: "layout-shift"});
"""


def test_a_refresh_changes_what_changed_and_moves_nothing(page: Page, api: Api) -> None:
    assert api.answer is not None
    page.clock.install()
    page.goto("/status?lang=en")
    page.locator('[data-days="leads"] summary').click()
    page.locator('[data-bars="leads"]').focus()
    page.keyboard.press("ArrowLeft")
    page.evaluate(WATCH_CHANGES)
    tick(page, 31)
    wait_until(page, lambda: api.request_count == 2)
    assert page.evaluate("window.changes") == [], "the same answer changes nothing"
    api.answer["components"][0]["windows"]["1h"]["n"] = 13
    tick(page, 31)
    expect(page.locator('[data-key="leads"] .service-figures')).to_contain_text("13")
    assert page.evaluate("window.changes.length") == 1
    expect(page.locator('[data-bars="leads"]')).to_be_focused()
    expect(page.locator('[data-bars="leads"]')).to_have_attribute("aria-valuenow", "90")
    expect(page.locator('[data-days="leads"]')).to_have_attribute("open", "")
    assert page.evaluate("window.shifts") == 0


def test_a_hidden_page_sends_no_request(page: Page, api: Api) -> None:
    page.clock.install()
    page.goto("/status")
    expect(page.locator(".service")).to_have_count(4)
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, writable: true})")
    count_before = api.request_count
    tick(page, 300)
    assert api.request_count == count_before
    page.evaluate("document.hidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("[data-when]")).to_contain_text("baru saja")
    assert api.request_count == count_before + 1


def test_an_open_past_incident_stays_open_when_another_comes_before_it(
    page: Page, api: Api
) -> None:
    assert api.answer is not None
    page.clock.install()
    page.goto("/status")
    page.locator("[data-past] summary").click()
    newer = json.loads(json.dumps(api.answer["incidents"][0]))
    newer |= {"id": "INC-newer", "name": "Something else"}
    api.answer["incidents"].insert(0, newer)
    tick(page, 31)
    expect(page.locator("[data-past] details")).to_have_count(2)
    assert [each.get_attribute("open") for each in page.locator("[data-past] details").all()] == [
        None,
        "",
    ]


def test_a_printed_page_shows_everything(page: Page, api: Api) -> None:
    api.answer = status_answers.outage()
    page.goto("/status")
    page.emulate_media(media="print")
    expect(page.locator(".service-figures").first).to_be_visible()
    expect(page.locator("[data-language]")).to_be_hidden()
    assert page.locator(".bar.met").first.evaluate(
        "bar => getComputedStyle(bar).printColorAdjust"
    ) == "exact"  # fmt: skip


def test_the_page_requests_only_our_origin_and_works_without_storage(
    context: BrowserContext, page: Page, platform: Platform, complaints: list[str]
) -> None:
    requested_urls: list[str] = []
    page.on("request", lambda request: requested_urls.append(request.url))
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('forbidden'); }})"
    )
    page.goto("/status?lang=en")
    expect(page.locator("[data-sentence]")).to_have_text("All services are working.")
    assert all(url.startswith(platform.url) for url in requested_urls)
    assert complaints == []


def test_without_javascript_it_says_where_to_look(browser: Browser, platform: Platform) -> None:
    with browser.new_context(base_url=platform.url, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/status")
        expect(page.locator("noscript a")).to_have_attribute("href", "/api/status")


@pytest.mark.parametrize("path", ["/", "/en", "/produk", "/en/products", "/vitals", "/404",
                                  "/terima-kasih", "/en/thank-you"])  # fmt: skip
def test_every_page_links_to_the_status_page(page: Page, path: str) -> None:
    page.goto(path)
    lang = "en" if path.startswith("/en") else "id"
    link = page.locator(f'.colophon a[href="{ADDRESSES[lang]}"]')
    expect(link).to_be_visible()
