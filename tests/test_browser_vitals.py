"""Vitals of a real Chromium: measured by web-vitals, sent on leaving, found in the sketches."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from dev import vendor
from dev.platform import Platform
from tests.conftest import ROOT
from tests.test_browser import QUIET_ARGUMENTS
from tests.test_rum import LAPTOP, counted, not_due

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
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*QUIET_ARGUMENTS, *somebody]
        )
        yield browser
        browser.close()


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
    groups = counted(site, len(last), by="path,device,metric", histogram="1")
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
    if not vendor.available():
        pytest.skip("npm is not here")
    for name, content in vendor.contents().items():
        assert (ROOT / vendor.FOLDER / name).read_bytes() == content, "python3 -m dev vendor"
