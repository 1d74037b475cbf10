"""axe-core finds no violation on any page, in any state a visitor meets."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from dev import tools
from dev.platform.local_platform import Platform
from tests.browser.test_form import fill, send
from tests.conftest import BROWSER, FORM
from tests.fix_browser import PHONE_SCREEN, browser
from tests.monitoring import status_answers
from tests.products.catalogue_data import seeded
from tests.vitals.test_rum import not_due, post_beacon, vital, wait_for_count

__all__ = ["browser", "not_due", "seeded"]

DESKTOP_SCREEN: ViewportSize = {"width": 1280, "height": 800}
PATHS = [
    "/",
    "/en",
    "/produk",
    "/en/products",
    "/terima-kasih?ref=ALFA-7K2QX",
    "/en/thank-you?ref=ALFA-7K2QX",
    "/status",
    "/vitals",
    "/no-such-page",
]
RUN_AXE = """async () => {
  const {violations} = await axe.run();
  return violations.flatMap(({id, nodes}) => nodes.map(({html}) => `${id}: ${html}`));
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    return tools.ensure_axe().read_text(encoding="utf-8")


@pytest.fixture
def page(browser: Browser, platform: Platform, database: object) -> Iterator[Page]:
    with browser.new_context(
        base_url=platform.url, viewport=PHONE_SCREEN, reduced_motion="reduce"
    ) as context:
        yield context.new_page()


def violations(page: Page, axe: str) -> list[str]:
    """Each as its rule and element. evaluate() is not bound by the page's policy."""
    page.evaluate(axe)
    nodes: list[str] = page.evaluate(RUN_AXE)
    return nodes


def settle(page: Page) -> None:
    page.wait_for_load_state("networkidle")
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


@pytest.mark.parametrize("screen", [PHONE_SCREEN, DESKTOP_SCREEN], ids=["phone", "desktop"])
@pytest.mark.parametrize("path", PATHS)
def test_a_page_has_no_violation(page: Page, axe: str, path: str, screen: ViewportSize) -> None:
    page.set_viewport_size(screen)
    page.goto(path)
    settle(page)
    assert violations(page, axe) == []


@pytest.mark.parametrize("path", ["/", "/en"])
def test_a_form_with_faults_has_no_violation(page: Page, axe: str, path: str) -> None:
    page.goto(path)
    settle(page)
    send(page)
    page.locator("#form-errors").wait_for()
    assert violations(page, axe) == []


def test_a_form_that_waits_for_the_line_has_no_violation(page: Page, axe: str) -> None:
    page.route("**/api/leads", lambda route: route.abort())
    page.goto("/")
    fill(page)
    send(page)
    page.locator("[data-panel=waiting]").wait_for()
    assert violations(page, axe) == []


def test_the_servers_own_page_of_faults_has_no_violation(
    page: Page, axe: str, platform: Platform
) -> None:
    faulty = FORM | {"phone_whatsapp": "12345"}
    html = httpx.post(f"{platform.url}/api/leads", data=faulty, headers=BROWSER, timeout=20).text
    page.route("**/api/faults", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto("/api/faults")
    settle(page)
    assert page.locator("#form-errors").is_visible()
    assert violations(page, axe) == []


@pytest.mark.parametrize("state", status_answers.ANSWERS)
def test_every_state_of_the_status_page_has_no_violation(page: Page, axe: str, state: str) -> None:
    answer: dict[str, Any] = status_answers.ANSWERS[state]()
    page.route("**/api/status", lambda route: route.fulfill(json=answer))
    page.goto("/status")
    page.locator(".service").first.wait_for()
    settle(page)
    assert violations(page, axe) == []


def test_the_status_page_that_cannot_be_read_has_no_violation(page: Page, axe: str) -> None:
    page.route("**/api/status", lambda route: route.fulfill(status=503, json={}))
    page.goto("/status")
    page.locator("[data-when]").wait_for()
    assert violations(page, axe) == []


@pytest.mark.parametrize("screen", [PHONE_SCREEN, DESKTOP_SCREEN], ids=["phone", "desktop"])
def test_vitals_with_charts_have_no_violation(
    page: Page, axe: str, platform: Platform, not_due: None, screen: ViewportSize
) -> None:
    with httpx.Client(base_url=platform.url, timeout=20) as site:
        for value in range(1800, 1820):
            post_beacon(site, [vital("LCP", value), vital("INP", value / 10), vital("CLS", 0.01)])
        wait_for_count(site, 60)
    page.set_viewport_size(screen)
    page.goto("/vitals")
    page.locator("[data-trend] svg").wait_for()
    settle(page)
    assert violations(page, axe) == []


@pytest.mark.parametrize("path", ["/", "/produk"])
def test_the_notice_of_maintenance_has_no_violation(
    page: Page, axe: str, seeded: object, path: str
) -> None:
    health = {"status": "maintenance", "timestamp": "2026-11-24T03:00:00.000Z"}
    page.route("**/api/health", lambda route: route.fulfill(json=health))
    page.goto(path)
    page.locator(".maintenance").wait_for()
    settle(page)
    assert violations(page, axe) == []


def test_products_that_cannot_be_loaded_have_no_violation(page: Page, axe: str) -> None:
    page.route("**/api/products*", lambda route: route.fulfill(status=500, body="{}"))
    page.goto("/produk")
    page.get_by_role("button", name="Coba lagi").wait_for()
    assert violations(page, axe) == []


def test_a_product_and_an_empty_search_have_no_violation(
    page: Page, axe: str, seeded: object
) -> None:
    page.goto("/produk?q=zzzzzz")
    settle(page)
    assert violations(page, axe) == []
    page.goto("/produk")
    page.locator(".card a").first.click()
    settle(page)
    assert violations(page, axe) == []


def test_the_local_platforms_own_page_has_no_violation(
    page: Page, axe: str, platform: Platform
) -> None:
    for address in (platform.control_url, platform.resend.url, platform.slack.url):
        page.goto(address)
        assert violations(page, axe) == []
