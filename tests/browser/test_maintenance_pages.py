"""Maintenance as visitors meet it on the form's and the products' pages, in a real Chromium.

/api/health is answered by the test, as it answers in maintenance; all else is the real site.
"""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from dev.platform.local_platform import Platform
from tests.browser.test_form import fill, send, wait_for_thanks
from tests.fix_browser import PHONE_SCREEN, browser, complaints, page
from tests.products.catalogue_data import Database, seeded

__all__ = ["browser", "complaints", "page", "seeded"]

NOTICES = {
    "/": "Kirim formulir seperti biasa: kami simpan dan jawab sesudahnya.",
    "/en": "Send the form as usual: we keep it and reply later.",
    "/produk": "Daftar produk mungkin sedikit lebih lama dari biasanya.",
    "/en/products": "The product list may be a little older than usual.",
}

# Of the notice and what came after: a page may settle before health is asked.
COUNT_SHIFTS = """
window.shifts = [];
window.asked = performance.getEntriesByType("resource")
  .find(({name}) => name.endsWith("/api/health")).startTime;
new PerformanceObserver((list) => window.shifts.push(...list.getEntries()
  .filter((each) => each.startTime >= window.asked)
  .map((each) => each.sources.map(
    (source) => source.node?.nodeName + "." + source.node?.className))))
  .observe({type: "layout-shift", buffered: true});
"""


class Health:
    """What /api/health says."""

    def __init__(self) -> None:
        self.status = "maintenance"
        self.request_count = 0

    def __call__(self, route: Route) -> None:
        self.request_count += 1
        route.fulfill(json={"status": self.status, "timestamp": "2026-11-24T03:00:00.000Z"})


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def context(
    browser: Browser, platform: Platform, seeded: Database, health: Health
) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=platform.url, viewport=PHONE_SCREEN) as context:
        context.route("**/api/health", health)
        yield context


@pytest.mark.parametrize("path", NOTICES)
@pytest.mark.parametrize("width", [320, 360, 1280])
def test_maintenance_shows_a_notice_without_a_layout_shift(
    page: Page, complaints: list[str], path: str, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.goto(path, wait_until="networkidle")
    notice = page.locator(".maintenance")
    expect(notice.get_by_role("status")).to_contain_text(NOTICES[path])
    status = "/status?lang=en" if path.startswith("/en") else "/status"
    expect(notice.get_by_role("link")).to_have_attribute("href", status)
    page.evaluate(COUNT_SHIFTS)
    page.wait_for_timeout(300)
    moved = [node for shift in page.evaluate("window.shifts") for node in shift]
    # Products fill their list when they come; the notice takes no part in it.
    assert path.endswith(("produk", "products")) or moved == []
    assert not any("maintenance" in node for node in moved)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = notice.bounding_box()
    assert box is not None
    assert box["height"] < 740 / 4
    assert complaints == []


@pytest.mark.parametrize("path", ["/", "/produk"])
def test_health_is_requested_after_the_page_has_loaded(page: Page, path: str) -> None:
    page.goto(path)
    expect(page.locator(".maintenance")).to_be_visible()
    requested_at, loaded_at = page.evaluate(
        """[performance.getEntriesByType("resource").find(({name}) => name.endsWith("/api/health"))
           .startTime, performance.getEntriesByType("navigation")[0].loadEventStart]"""
    )
    assert requested_at >= loaded_at > 0


def test_health_is_requested_on_a_page_that_is_never_idle(page: Page) -> None:
    page.add_init_script(
        "requestIdleCallback = (work, {timeout} = {}) => timeout && setTimeout(work, timeout)"
    )
    page.goto("/")
    expect(page.locator(".maintenance")).to_be_visible()


def stall(_route: Route) -> None:
    """Never an answer."""


SILENT: dict[str, Callable[[Route], None]] = {
    "all well": lambda route: route.fulfill(json={"status": "ok"}),
    "an error": lambda route: route.fulfill(status=503, json={"status": 503}),
    "no line": lambda route: route.abort(),
    "no json": lambda route: route.fulfill(body="<html>"),
    "nothing": lambda route: route.fulfill(json=None),
    "silence": stall,
}


@pytest.mark.parametrize("answer", SILENT)
def test_without_maintenance_there_is_no_notice_and_the_form_is_sent(
    page: Page, complaints: list[str], answer: str
) -> None:
    page.route("**/api/health", SILENT[answer])
    with page.expect_request("**/api/health"):
        page.goto("/")
    page.wait_for_timeout(300)
    expect(page.locator(".maintenance")).to_have_count(0)
    fill(page)
    send(page)
    wait_for_thanks(page)
    assert complaints == []


def test_the_form_is_sent_while_the_notice_is_shown(page: Page) -> None:
    page.goto("/")
    expect(page.locator(".maintenance")).to_be_visible()
    fill(page)
    send(page)  # by a click: the notice is not in its way
    wait_for_thanks(page)


def test_what_has_the_focus_is_not_behind_the_notice(page: Page) -> None:
    page.goto("/")
    expect(page.locator(".maintenance")).to_be_visible()
    page.locator("#business_name").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.maintenance *, body')"):
            break
        hidden = page.evaluate(
            """document.activeElement.getBoundingClientRect().top
               >= document.querySelector(".maintenance").getBoundingClientRect().top"""
        )
        assert not hidden, page.evaluate("document.activeElement.outerHTML")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.locator(".colophon a").click()
    page.wait_for_url("**/status")


def test_a_visit_requests_health_once_a_minute_whatever_the_number_of_pages(
    page: Page, health: Health
) -> None:
    page.clock.install()
    for path in ("/", "/produk", "/"):
        page.goto(path)
        expect(page.locator(".maintenance")).to_be_visible()
    assert health.request_count == 1
    health.status = "ok"
    page.clock.run_for(61_000)
    expect(page.locator(".maintenance")).to_have_count(0)
    assert health.request_count == 2
    page.clock.run_for(600_000)
    assert health.request_count == 2, "when all is well an open page asks no more"


def test_a_closed_notice_stays_closed_until_the_next_maintenance(
    page: Page, health: Health
) -> None:
    page.clock.install()
    page.goto("/")
    page.get_by_role("button", name="Tutup").click()
    expect(page.locator(".maintenance")).to_have_count(0)
    page.goto("/produk", wait_until="networkidle")
    page.clock.run_for(1000)
    expect(page.locator(".maintenance")).to_have_count(0)
    for status, count in (("ok", 0), ("maintenance", 1)):
        health.status = status
        page.clock.run_for(61_000)
        page.reload(wait_until="networkidle")
        page.clock.run_for(1000)
        expect(page.locator(".maintenance")).to_have_count(count)


def test_other_pages_show_no_notice(page: Page, health: Health) -> None:
    for path in ("/terima-kasih", "/vitals", "/no-such-page"):
        page.goto(path, wait_until="networkidle")
        expect(page.locator(".maintenance")).to_have_count(0)
    assert health.request_count == 0


def test_the_notice_is_shown_without_storage(
    context: BrowserContext, page: Page, complaints: list[str]
) -> None:
    context.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', {get() { throw new Error('no'); }})"
    )
    page.goto("/en")
    expect(page.locator(".maintenance")).to_contain_text(re.compile("Send the form as usual"))
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".maintenance")).to_have_count(0)
    assert complaints == []
