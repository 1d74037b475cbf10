"""The product pages in a real browser: on a phone, without a line, without JavaScript."""

import re
from collections.abc import Iterator

import pytest
import redis
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from dev.platform.local_platform import Platform
from tests.conftest import eventually
from tests.fix_browser import PHONE_SCREEN, browser
from tests.products.catalogue_data import PRODUCTS, Database, seeded

__all__ = ["browser", "seeded"]

PATHS = {"id": "/produk", "en": "/en/products"}


@pytest.fixture
def context(browser: Browser, platform: Platform, seeded: Database) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=platform.url, viewport=PHONE_SCREEN) as context:
        yield context
    # A request still under way would be in the way of the next test's empty database.
    eventually(lambda: not any(each["in_flight"] for each in platform.functions()))


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(context: BrowserContext, complaints: list[str]) -> Page:
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    return page


def cards(page: Page) -> list[str]:
    return page.locator(".card h2").all_inner_texts()


def test_a_recall_is_shown_as_an_empty_list_and_empties_the_devices_cache(
    page: Page, seeded: Database, platform: Platform
) -> None:
    page.goto("/produk")
    expect(page.locator(".card")).to_have_count(24)
    eventually(lambda: page.evaluate("localStorage.getItem('products-id') !== null"))
    seeded.execute("update products set published = false")
    # Minutes later: what memory, Redis and the browser may show until then is old.
    platform.restart_functions()
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.flushall()
    browser_cache = page.context.new_cdp_session(page)
    browser_cache.send("Network.enable")
    browser_cache.send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.reload()
    expect(page.locator("[data-empty]")).to_be_visible()
    expect(page.locator(".card")).to_have_count(0)
    eventually(lambda: page.evaluate("localStorage.getItem('products-id') === null"))


@pytest.mark.parametrize("typed", ["Gamma+", "gamma%2B", "Gamma%20"])
def test_a_brand_with_a_plus_is_chosen_by_its_address_and_stays_so(page: Page, typed: str) -> None:
    page.goto(f"/produk?brand={typed}")
    expect(page.locator(".card .card-brand").first).to_have_text("Gamma+")
    expect(page.locator("[data-chips] .chip")).to_have_text(["Gamma+"])
    page.locator("[data-filters] > summary").click()
    chosen = page.locator("[data-facet=brand] input:checked")
    expect(chosen).to_have_count(1)
    assert chosen.input_value() == "Gamma+"
    with page.expect_response(re.compile(r"sort=-name")):
        page.locator("select[name=sort]").select_option("-name")
    page.wait_for_timeout(200)  # the chips are made anew: a click on an old one is lost
    expect(page).to_have_url(re.compile(r"brand=Gamma%2B"))
    expect(page.locator(".card .card-brand").first).to_have_text("Gamma+")
    page.locator("[data-chips] .chip").click()
    expect(chosen).to_have_count(0)


@pytest.mark.parametrize("lang", PATHS)
@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_lists_products_in_its_language_and_fits(
    page: Page, complaints: list[str], lang: str, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    page.goto(PATHS[lang])
    expect(page.locator(".card")).to_have_count(24)
    expect(page.locator("[data-status]")).to_have_text(re.compile(f"^{len(PRODUCTS)} produ"))
    [first] = [each for each in PRODUCTS if each["name"] == cards(page)[0]]
    expect(page.locator(".card-summary").first).to_have_text(first["summary"][lang])
    page.locator("[data-filters] > summary").click()
    expect(page.locator("[data-facet=category] label").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.evaluate(
        "[...document.querySelectorAll('.facet label, .masthead a, .search-line input, select')]"
        ".filter((each) => each.getBoundingClientRect().height < 43).length"
    )
    assert small == 0, "a finger needs 44 px"
    assert complaints == []


def test_typing_searches_and_the_address_keeps_in_step(page: Page) -> None:
    page.goto("/produk")
    entries = page.evaluate("history.length")
    page.get_by_label("Cari produk").press_sequentially("sampo ketomb", delay=20)
    expect(page.locator(".card")).to_have_count(2)
    expect(page).to_have_url(re.compile(r"/produk\?q=sampo\+ketomb$"))
    assert page.evaluate("history.length") == entries
    page.reload()
    expect(page.get_by_label("Cari produk")).to_have_value("sampo ketomb")
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator(".language")).to_have_attribute("href", "/en/products?q=sampo+ketomb")


def test_facets_show_counts_and_filter(page: Page) -> None:
    page.goto("/produk?brand=Gamma%2B")
    expect(page.locator(".card")).to_have_count(11)
    expect(page.locator(".chip")).to_have_text("Gamma+")
    page.locator("[data-filters] > summary").click()
    count_label = page.locator("[data-facet=audience] label", has_text="Salon").locator(".count")
    count = int(count_label.inner_text())
    page.get_by_role("checkbox", name="Salon", exact=False).first.check()
    expect(page.locator(".card")).to_have_count(count)
    expect(page).to_have_url(re.compile(r"brand=Gamma%2B&audience=SALON"))
    page.get_by_role("button", name="Hapus Gamma+").click()
    expect(page).to_have_url(re.compile(r"/produk\?audience=SALON$"))
    page.get_by_role("button", name="Hapus saringan").click()
    expect(page).to_have_url(re.compile(r"/produk$"))


def test_a_product_has_its_own_address_and_back_returns_to_the_list(page: Page) -> None:
    page.goto("/produk?q=pomade")
    page.get_by_role("link", name="Hair Manya Classic Pomade").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Hair Manya Classic Pomade")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(page).to_have_url(re.compile("q=pomade&slug=hair-manya-classic-pomade"))
    expect(page).to_have_title("Hair Manya Classic Pomade · Alfa Beauty")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Hair Manya Classic Pomade")
    page.go_back()
    expect(page).to_have_url(re.compile(r"\?q=pomade$"))
    expect(page.locator(".card").first).to_be_visible()
    page.goto("/en/products?slug=no-such-product")
    expect(page.get_by_role("heading", level=1)).to_contain_text("does not exist")


def test_the_enquiry_is_one_tap_away_and_carries_the_product(page: Page) -> None:
    page.goto("/produk?slug=barber-beard-oil")
    page.get_by_role("link", name="Minta penawaran produk ini").click()
    expect(page.locator("#message")).to_have_value("Saya tertarik dengan: Barber Beard Oil")
    expect(page.locator("#message")).to_be_visible()
    page.goto("/en/products?slug=denuee-oil-colour")
    page.get_by_role("link", name="Ask for an offer").click()
    expect(page.locator("#message")).to_have_value(re.compile("Dénuée Oil Colour"))


def test_the_form_page_leads_to_the_products(page: Page) -> None:
    for path, name, target in (("/", "Produk", "/produk"), ("/en", "Products", "/en/products")):
        page.goto(path)
        page.get_by_role("link", name=name, exact=True).click()
        expect(page).to_have_url(re.compile(f"{target}$"))


def test_more_are_shown_without_losing_the_place(page: Page) -> None:
    page.goto("/produk")
    page.get_by_role("button", name="Tampilkan lebih banyak").click()
    expect(page.locator(".card")).to_have_count(48)
    expect(page.locator(".card a").nth(24)).to_be_focused()
    assert len(set(cards(page))) == 48


def test_an_empty_search_offers_a_way_on(page: Page) -> None:
    page.goto("/produk?q=lipstick")
    expect(page.locator("[data-status]")).to_have_text("Tidak ada produk yang cocok.")
    page.get_by_role("button", name="Tampilkan semua produk").click()
    expect(page.locator(".card")).to_have_count(24)


def test_offline_the_cached_list_is_searched_and_the_page_says_so(
    page: Page, context: BrowserContext
) -> None:
    page.goto("/produk")
    expect(page.locator(".card")).to_have_count(24)
    # Not wait_for_function: the page's policy forbids what it does.
    eventually(lambda: page.evaluate("localStorage.getItem('products-id') !== null"))
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    cache_lookup = "caches.open('products-1').then((c) => c.match('/produk')).then(Boolean)"
    eventually(lambda: page.evaluate(cache_lookup))
    context.set_offline(True)
    page.goto("/produk?q=shampoo&brand=Kemon")
    expect(page.locator("[data-notice]")).to_contain_text("luring")
    expect(page.locator(".card")).to_have_count(2)
    page.locator(".card a").first.click()
    expect(page.locator("[data-benefits] li").first).to_be_visible()
    page.go_back()
    context.set_offline(False)  # which the page hears of
    expect(page.locator("[data-notice]")).to_be_hidden()


def test_an_outage_of_the_products_api_is_shown_and_retried(page: Page) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=500, body="{}")

    page.route("**/api/products*", refuse)
    page.goto("/produk")
    expect(page.locator("[data-status]")).to_contain_text("tidak dapat dimuat")
    page.unroute("**/api/products*")
    page.get_by_role("button", name="Coba lagi").click()
    expect(page.locator(".card")).to_have_count(24)


def test_without_javascript_the_page_is_a_plain_list_that_leads_to_the_form(
    browser: Browser, platform: Platform, seeded: Database
) -> None:
    with browser.new_context(base_url=platform.url, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/produk")
        expect(page.locator("[data-plain] li")).to_have_count(len(PRODUCTS))
        page.get_by_role("link", name="Barber Beard Oil").click()
        expect(page.locator("#lead-form")).to_be_visible()
        assert "produk=Barber+Beard+Oil" in page.url
