"""A real Chromium for a file of tests: import `browser` by name.

It is the system's if there is one, else Playwright's own (`playwright install chromium`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ViewportSize, sync_playwright

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
