"""Vitals of a real Chromium: measured by web-vitals, sent on leaving, found in the sketches."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from dev.build import browser_libraries
from dev.platform.local_platform import Platform
from tests.conftest import ROOT
from tests.fix_browser import PHONE_SCREEN, launch
from tests.vitals.test_rum import LAPTOP, not_due, post_beacon, vital, wait_for_count

__all__ = ["not_due"]

VISITS = 5  # fewer are hidden


# Playwright no longer listens when a page is being left: the page itself remembers what it sent.
REMEMBER = """
const send = navigator.sendBeacon.bind(navigator);
navigator.sendBeacon = (address, body) => {
  const sent = [...JSON.parse(localStorage.sent ?? "[]"), ...JSON.parse(body)];
  localStorage.sent = JSON.stringify(sent);
  return send(address, body);
};
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that says neither that it is driven nor that it has no window.

    Its user agent is given at the start: a context's own is not sent by a page being left.
    """
    somebody = [
        "--disable-blink-features=AutomationControlled",
        f"--user-agent={LAPTOP}",
    ]
    with launch(*somebody) as browser:
        yield browser


@pytest.fixture
def context(browser: Browser, platform: Platform, site: httpx.Client) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=platform.url) as context:
        context.add_init_script(REMEMBER)
        yield context


def visit(context: BrowserContext, path: str) -> None:
    """Click, type, scroll, leave."""
    page = context.new_page()
    page.goto(path, wait_until="networkidle")
    page.locator("#business_name").click()
    page.keyboard.type("Salon")
    page.mouse.wheel(0, 600)
    page.wait_for_timeout(150)
    page.locator("#consent").click()
    page.wait_for_timeout(150)
    page.goto("/no-such-page")  # reports nothing itself
    page.close()


def sent_by(context: BrowserContext) -> dict[str, dict[str, Any]]:
    """The last report of each id."""
    page = context.new_page()
    page.goto("/no-such-page")
    reports = json.loads(page.evaluate("localStorage.sent ?? '[]'"))
    page.close()
    return {report["id"]: report for report in reports}


def test_a_visit_is_found_in_the_sketches(context: BrowserContext, site: httpx.Client) -> None:
    for _ in range(VISITS):
        visit(context, "/en?utm_source=ig")
    last = sent_by(context)
    names = [report["name"] for report in last.values()]
    for name in ("LCP", "CLS", "INP"):
        assert names.count(name) == VISITS, f"{name}: {names}"
    groups = wait_for_count(site, len(last), by="path,device,metric", histogram="1")
    assert {(group["path"], group["device"]) for group in groups} == {("/en", "desktop")}
    for group in groups:
        values = [each["value"] for each in last.values() if each["name"] == group["metric"]]
        assert group["n"] == len(values)
        for value in values:
            assert any(  # its own value's bucket
                bar["from"] - 0.1 <= value <= bar["to"] + 0.1 for bar in group["histogram"]
            ), group["metric"]


def test_a_driven_browser_reports_nothing(context: BrowserContext) -> None:
    context.add_init_script(
        "Object.defineProperty(Navigator.prototype, 'webdriver', {get: () => true})"
    )
    visit(context, "/")
    assert sent_by(context) == {}


def test_pages_measure_with_the_library_as_it_was_published() -> None:
    if not browser_libraries.available():
        pytest.skip("npm is not here")
    for name, content in browser_libraries.contents().items():
        assert (ROOT / browser_libraries.FOLDER / name).read_bytes() == content, (
            "python3 -m dev vendor"
        )


# --- The page that shows them.


@pytest.fixture
def page(browser: Browser, platform: Platform, site: httpx.Client) -> Iterator[Page]:
    """A phone, at a site with a day of visits."""
    chance = random.Random(6)
    for _ in range(4):
        reports = [vital(name, abs(chance.gauss(middle, middle / 3)), page=path)
                   for name, middle in (("LCP", 2600), ("CLS", 0.06), ("INP", 180))
                   for path in ("/", "/en") for _ in range(8)]  # fmt: skip
        post_beacon(site, reports)
    wait_for_count(site, 4 * 48)
    with browser.new_context(base_url=platform.url, viewport=PHONE_SCREEN) as context:
        context.add_init_script(
            "Object.defineProperty(Navigator.prototype, 'webdriver', {get: () => true})"
        )
        yield context.new_page()


def test_the_page_shows_p75_its_bands_and_the_distribution(page: Page) -> None:
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.goto("/vitals")
    trend, spread = page.locator("[data-trend] svg"), page.locator("[data-spread] svg")
    expect(trend).to_be_visible()
    expect(trend).to_have_attribute("aria-label", re.compile("LCP, p75 per hari"))
    expect(trend.locator(".band")).to_have_count(2)
    expect(trend.locator(".release")).to_have_count(1)
    assert spread.locator(".bar").count() > 5
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE_SCREEN["width"]
    assert complaints == []


def test_the_page_is_used_by_keyboard_and_read_as_tables(page: Page) -> None:
    page.goto("/vitals?lang=en")
    page.get_by_role("radio", name=re.compile("LCP")).focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-trend-title]")).to_have_text("INP: 75th percentile by day")
    page.locator("[data-trend] svg").focus()
    expect(page.locator("[data-readout]")).to_contain_text(
        re.compile(r"p75 \d+.ms, \w+.*64 visits")
    )
    page.locator("[data-trend-table] >> xpath=..").locator("summary").click()
    expect(page.locator("[data-trend-table] tbody tr")).to_have_count(1)
    expect(page.locator("[data-pages] tbody tr")).to_have_count(2)


def test_a_choice_of_page_and_device_is_kept_in_the_address(page: Page) -> None:
    page.goto("/vitals")
    expect(page.locator("select[name=path] option")).to_have_count(3)
    page.locator("select[name=path]").select_option("/en")
    expect(page.locator("[data-readout]")).to_be_visible()
    page.wait_for_url("**path=%2Fen**")
    page.locator("select[name=device]").select_option("desktop")
    expect(page.locator("[data-status]")).to_contain_text("Belum ada cukup kunjungan")
    page.reload()
    assert page.locator("select[name=path]").input_value() == "/en"
    assert page.locator("select[name=device]").input_value() == "desktop"


def test_the_page_says_so_when_there_are_no_figures(page: Page) -> None:
    page.route("**/api/rum?*", lambda route: route.fulfill(status=503, body="{}"))
    page.goto("/vitals")
    expect(page.locator("[data-status]")).to_contain_text("tidak dapat dimuat")
