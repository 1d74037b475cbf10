"""The README's pictures: the form with its reference code, and status and vitals of the demo.

A picture is never edited: it is made anew by `python3 -m dev pictures`.
"""

import base64
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from dev import tools
from dev.pages import demo_site

FOLDER = Path("docs/pictures")
PHONE: ViewportSize = {"width": 360, "height": 740}
DESKTOP: ViewportSize = {"width": 1100, "height": 1100}
_FRAME = "border:1px solid #ccc;border-radius:8px"


def main(root: Path) -> int:
    """Write both pictures and print where."""
    try:
        program = tools.ensure_browser()
    except tools.Missing as error:
        print(error, file=sys.stderr)
        return 1
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with demo_site(root) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        _join(browser, _form(browser, site), PHONE, folder / "form.png")
        _join(browser, _reports(browser, site), DESKTOP, folder / "status-and-vitals.png")
        browser.close()
    print(FOLDER / "form.png")
    print(FOLDER / "status-and-vitals.png")
    return 0


def _form(browser: Browser, site: str) -> list[bytes]:
    """A filled form, and the page with its reference code."""
    page = browser.new_page(viewport=PHONE)
    page.goto(f"{site}/en")
    values = {
        "business_name": "Salon Melati",
        "contact_name": "Sri Wahyuni",
        "phone_whatsapp": "0812 3456 7890",
        "city": "Medan",
    }
    for name, value in values.items():
        page.locator(f"#{name}").fill(value)
    page.locator("#salon_type-salon").check()
    page.locator("#consent").check()
    page.locator("#business_name").scroll_into_view_if_needed()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 500)")
    form = page.screenshot()
    page.locator("[data-submit]").click()
    page.wait_for_url("**/en/thank-you?ref=*")
    page.wait_for_load_state("networkidle")
    return [form, page.screenshot()]


def _reports(browser: Browser, site: str) -> list[bytes]:
    page = browser.new_page(viewport=DESKTOP)
    page.goto(f"{site}/status?lang=en")
    page.locator(".service").first.wait_for()
    status = page.screenshot()
    page.goto(f"{site}/vitals?lang=en")
    page.locator("svg").first.wait_for()
    page.wait_for_load_state("networkidle")
    return [status, page.screenshot()]


def _join(browser: Browser, images: list[bytes], size: ViewportSize, file: Path) -> None:
    """The images side by side."""
    sources = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in images]
    width = len(images) * (size["width"] + 18) + 16
    page: Page = browser.new_page(viewport={"width": width, "height": size["height"] + 34})
    tags = "".join(f'<img src="{source}" style="{_FRAME}" alt="">' for source in sources)
    page.set_content(f'<body style="margin:16px;display:flex;gap:16px;background:#fff">{tags}')
    page.screenshot(path=file)
