"""Search finds what salons ask for: the queries in dev/bench/search_queries.txt."""

import statistics
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dev.bench import search
from dev.platform.local_platform import Platform
from lib.products import catalogue
from lib.products.query import parse
from tests.products.catalogue_data import PRODUCTS, Database, seeded

__all__ = ["seeded"]

type Connection = psycopg.Connection[Any]


@pytest.fixture
def connection(platform: Platform, seeded: Database) -> Iterator[Connection]:
    """As the functions connect."""
    with psycopg.connect(
        platform.database_url, autocommit=True, prepare_threshold=None
    ) as connection:
        yield connection


def slugs(connection: Connection, q: str) -> set[str]:
    result = catalogue.find(lambda work: work(connection), parse([("q", q)], "id"))
    return {row["slug"] for row in result.rows}


def test_queries_of_salons_find_the_wanted_products_first(connection: Connection) -> None:
    queries = search.load_queries()
    scores = [
        search.score(connection, query, search.wanted_slugs(wanted, PRODUCTS))
        for query, wanted in queries.items()
    ]
    assert len(scores) >= 200
    assert [score.query for score in scores if score.recall == 0] == []
    assert statistics.mean(score.recall for score in scores) > 0.98
    assert statistics.mean(score.precision for score in scores) > 0.85
    assert statistics.mean(score.ranking for score in scores) > 0.96


@pytest.mark.parametrize(
    "spellings",
    [
        ("Oxi'd'O", "oxido"),
        ("After Shave Balm", "aftershave balm"),
        ("Alfaparf", "alfa parf"),
        ("anti dandruff", "antidandruff"),
        ("perawatan", "merawat", "dirawat", "rawat"),
        ("lurus", "meluruskan", "diluruskan"),
        ("rontok", "kerontokan"),
        ("ketombe", "berketombe"),
        ("pewarna", "mewarnai", "pewarnaan"),
        ("lembap", "lembab", "melembabkan"),
    ],
)
def test_spellings_and_forms_of_a_word_find_the_same(
    connection: Connection, spellings: tuple[str, ...]
) -> None:
    first, *others = (slugs(connection, spelling) for spelling in spellings)
    assert first
    for other in others:
        assert len(first & other) >= 0.9 * len(first | other)


@pytest.mark.parametrize(
    ("q", "different"),
    [("pengering", "rambut kering"), ("minyak", "berminyak")],
)
def test_words_that_only_look_related_stay_apart(
    connection: Connection, q: str, different: str
) -> None:
    assert not slugs(connection, q) >= slugs(connection, different)


def test_a_new_product_is_found_joined_split_and_inflected(connection: Connection) -> None:
    connection.execute(
        "insert into products (slug, name, brand, audience, categories, summary_id) values"
        " ('new', 'Zig Zag Wave', 'Kemon', '{SALON}', '{tools}', 'Untuk mengencerkan gelombang')"
    )
    for q in ("zigzag", "zigzagwave", "zig zag", "zi gzag", "pengencer", "encer"):
        assert "new" in slugs(connection, q), q
