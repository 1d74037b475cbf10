"""Filters, facets, search and cursors against a naive filter in Python, for generated queries."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev.platform.local_platform import Platform
from lib.products import catalogue, snapshot
from lib.products.query import FILTERS, CursorPosition, Query, fold, parse
from tests.conftest import eventually
from tests.products.catalogue_data import (
    DOCUMENT,
    PRODUCTS,
    Database,
    make_product,
    seeded,
    store_catalogue,
)

__all__ = ["seeded"]

PLACES = {"category": "categories", "function": "functions", "audience": "audience"}
CODES = {
    "brand": [item["name"] for item in DOCUMENT["brands"]],
    "category": [item["code"] for item in DOCUMENT["categories"]],
    "function": [item["code"] for item in DOCUMENT["functions"]],
    "audience": ["SALON", "BARBER"],
}
WORDS = sorted(
    {word for product in PRODUCTS for word in fold(product["name"]).split() if len(word) > 2}
)

chosen = st.fixed_dictionaries(
    {name: st.lists(st.sampled_from(codes), max_size=3) for name, codes in CODES.items()}
)
typed = st.one_of(
    st.none(),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=2).map(" ".join),
    st.sampled_from(["sampo", "cat rambut", "keratn", "ketombe", "pelurus", "zzzz", "s"]),
)
sorts = st.sampled_from(["", "name", "-name", "newest"])


@pytest.fixture
def connection(platform: Platform, seeded: Database) -> Iterator["psycopg.Connection[Any]"]:
    """As the functions connect."""
    with psycopg.connect(
        platform.database_url, autocommit=True, prepare_threshold=None
    ) as connection:
        yield connection


def query_of(filters: dict[str, list[str]], **others: object) -> Query:
    pairs = [(name, value) for name, values in filters.items() for value in values]
    pairs += [(name, str(value)) for name, value in others.items() if value not in (None, "")]
    return parse(pairs, "en")


def values_of(product: dict[str, Any], facet: str) -> list[str]:
    return [product["brand"]] if facet == "brand" else product[PLACES[facet]]


def passes(product: dict[str, Any], filters: dict[str, list[str]]) -> bool:
    return all(
        not wanted or any(value in values_of(product, facet) for value in wanted)
        for facet, wanted in filters.items()
    )


def naive(filters: dict[str, list[str]], sort: str) -> list[str]:
    expected = [product for product in PRODUCTS if passes(product, filters)]
    expected.sort(
        key=lambda product: (fold(product["name"]), product["slug"]), reverse=sort == "-name"
    )
    if sort == "newest":
        expected.sort(key=lambda product: str(product["createdAt"]), reverse=True)
    return [product["slug"] for product in expected]


quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(filters=chosen, sort=sorts)
def test_every_combination_of_filters_agrees_with_a_naive_filter(
    connection: "psycopg.Connection[Any]", filters: dict[str, list[str]], sort: str
) -> None:
    query = query_of(filters, sort=sort, total=1, facets=1, limit=100)
    result = catalogue.find(lambda work: work(connection), query)
    expected = naive(filters, sort)
    assert [row["slug"] for row in result.rows] == expected
    assert result.total == len(expected)
    counted = {(row["facet"], row["value"]): int(row["n"]) for row in result.facets}
    assert set(counted) == {(facet, value) for facet in FILTERS for value in CODES[facet]}
    for (facet, value), n in counted.items():
        assert n == len(naive(filters | {facet: [value]}, "")), (facet, value)
    shipped = snapshot.load().find(query)
    assert [row["slug"] for row in shipped.rows] == expected
    assert {(r["facet"], r["value"]): r["n"] for r in shipped.facets} == counted


@quick
@given(filters=chosen, q=typed, sort=sorts)
def test_search_and_filters_combine_and_facets_count_the_matches(
    connection: "psycopg.Connection[Any]", filters: dict[str, list[str]], q: str | None, sort: str
) -> None:
    def ask(filters: dict[str, list[str]]) -> catalogue.QueryResult:
        query = query_of(filters, q=q, sort=sort, total=1, facets=1, limit=100)
        return catalogue.find(lambda work: work(connection), query)

    by_slug = {product["slug"]: product for product in PRODUCTS}
    everything = [row["slug"] for row in ask({}).rows]
    result = ask(filters)
    slugs = [row["slug"] for row in result.rows]
    assert slugs == [slug for slug in everything if passes(by_slug[slug], filters)]
    assert result.total == len(slugs)
    for row in result.facets:
        own = filters | {row["facet"]: [row["value"]]}
        assert row["n"] == sum(passes(by_slug[slug], own) for slug in everything)


@quick
@given(q=st.sampled_from(WORDS), data=st.data())
def test_a_word_of_a_name_is_found_by_its_beginning_and_with_a_typing_error(
    connection: "psycopg.Connection[Any]", q: str, data: st.DataObject
) -> None:
    def slugs(typed: str) -> set[str]:
        query = query_of({}, q=typed, limit=100)
        return {row["slug"] for row in catalogue.find(lambda work: work(connection), query).rows}

    named = {product["slug"] for product in PRODUCTS if q in fold(product["name"]).split()}
    beginning = q[: data.draw(st.integers(min(3, len(q)), len(q)))]
    assert named <= slugs(beginning)
    if len(q) > 4:
        at = data.draw(st.integers(1, len(q) - 1))
        slip = q[:at] + "q" + q[at + 1 :]
        assert named <= slugs(slip) or begins_another_word(slip)


def begins_another_word(typed: str) -> bool:
    """Whether the mistyped word is the beginning of another word of the catalogue."""
    return any(f" {typed}" in f" {row['text']}" for row in snapshot.load().rows)


@pytest.mark.parametrize("sort", ["name", "-name", "newest"])
@pytest.mark.parametrize("q", [None, "sampo"])
def test_walking_every_cursor_yields_each_product_once_while_rows_are_inserted(
    platform: Platform, connection: "psycopg.Connection[Any]", q: str | None, sort: str
) -> None:
    before = catalogue.find(lambda work: work(connection), query_of({}, q=q, sort=sort)).rows
    stop = threading.Event()
    inserted = 0

    def insert() -> None:
        nonlocal inserted
        with psycopg.connect(platform.database_url, autocommit=True) as other:
            while not stop.is_set():
                slug = f"{'azm'[inserted % 3]}-new-{inserted}"
                other.execute(
                    "insert into products (slug, name, brand, audience, categories, summary_id)"
                    " values (%s, %s, 'Kemon', '{SALON}', '{shampoo}', 'Sampo baru')",
                    [slug, slug],
                )
                inserted += 1

    thread = threading.Thread(target=insert)
    thread.start()
    eventually(lambda: inserted > 0)
    walked: list[str] = []
    after: str | None = None
    try:
        for _ in range(200):
            query = query_of({}, q=q, sort=sort, limit=5, cursor=after)
            result = catalogue.find(lambda work: work(connection), query)
            walked += [row["slug"] for row in result.rows]
            if not result.has_more:
                break
            after = query.encode_cursor(CursorPosition(*catalogue.sort_key(result.rows[-1])))
            if inserted > 60:
                stop.set()
    finally:
        stop.set()
        thread.join()
    assert len(walked) == len(set(walked))
    assert [slug for slug in walked if "-new-" not in slug] == [row["slug"] for row in before]


def test_counts_and_words_follow_every_change(platform: Platform, seeded: Database) -> None:
    def counted() -> dict[str, int]:
        rows = seeded.execute("select brand, sum(n)::int as n from product_groups group by 1")
        return {row["brand"]: row["n"] for row in rows}

    before = counted()
    store_catalogue(
        platform, DOCUMENT | {"products": [*PRODUCTS, make_product("zebra-mane", brand="Kemon")]}
    )
    assert counted() == before | {"Kemon": before["Kemon"] + 1}
    word = "select count(*) as n from search_words where word = 'zebra'"
    assert seeded.execute(word).fetchone() == {"n": 1}
    seeded.execute("update products set published = false where slug = 'zebra-mane'")
    assert counted() == before
    store_catalogue(platform)
    assert seeded.execute(word).fetchone() == {"n": 0}
    seeded.execute("truncate products")
    assert counted() == {}


def test_a_new_label_is_found_at_once(connection: "psycopg.Connection[Any]") -> None:
    connection.execute("update categories set label_id = 'Makeover' where code = 'tools'")
    result = catalogue.find(lambda work: work(connection), query_of({}, q="makeover", total=1))
    assert result.total == len(naive({"category": ["tools"]}, ""))


def test_an_edited_synonym_is_used_at_once(connection: "psycopg.Connection[Any]") -> None:
    def result() -> list[str]:
        query = query_of({}, q="gunting listrik")
        return [row["slug"] for row in catalogue.find(lambda work: work(connection), query).rows]

    assert "boosted-metal-clipper" not in result()
    connection.execute("insert into synonyms values ('Gunting  Listrik', 'Clipper')")
    assert "boosted-metal-clipper" in result()
