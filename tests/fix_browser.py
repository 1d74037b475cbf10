"""A real Chromium for a file of tests: import `browser` by name, and `page` with `complaints`.

It is the system's if there is one, else Playwright's own (`playwright install chromium`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

from dev import tools

PHONE_SCREEN: ViewportSize = {"width": 360, "height": 740}
QUIET_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


@contextmanager
def launch(*arguments: str) -> Iterator[Browser]:
    """A Chromium without a window; arguments: its own, beside the quiet ones."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=tools.find_browser(), args=[*QUIET_ARGUMENTS, *arguments]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")  # its event loop would be in the way of tests with their own
def browser() -> Iterator[Browser]:
    with launch() as browser:
        yield browser


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complains of on `page`."""
    return []


@pytest.fixture
def page(context: BrowserContext, complaints: list[str]) -> Page:
    """A page of the file's own `context`."""
    page = context.new_page()
    collect_complaints(page, complaints)
    return page


def collect_complaints(page: Page, complaints: list[str]) -> None:
    """Errors in scripts, and all that the policy forbids; no answer that is no 2xx."""
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type in ("error", "warning") and "Failed to load" not in message.text
            else None
        ),
    )


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    """For what a page does by itself: Playwright reports it while the test waits for it."""
    for _ in range(500):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it did not happen within 10 s")
