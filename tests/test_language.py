"""Accept-Language: RFC 4647 lookup in order of q, and headers that are none."""

import httpx
import pytest

from lib.language import best_locale


@pytest.mark.parametrize(
    ("header", "locale"),
    [
        ("", "id"),
        ("id-ID,en;q=0.5", "id"),
        ("in-ID,en-US;q=0.8", "id"),
        ("in", "id"),
        ("en", "en"),
        ("en-GB", "en"),
        ("EN-us", "en"),
        ("en_US", "en"),
        ("id-Latn-ID,en;q=0.9", "id"),
        ("id-ID,id;q=0.9,en-US;q=0.8,en;q=0.7", "id"),
        ("en-US,en;q=0.9,id;q=0.8", "en"),
        ("en;q=0.5,id-ID", "id"),
        ("en;q=0.8,id-ID;q=0.9", "id"),
        ("en-US;q=0.9,id;q=0.8", "en"),
        ("en,id", "en"),  # of equals the first
        ("id,en", "id"),
        ("ms,en;q=0.9", "id"),
        ("ms-MY,en-US;q=0.9", "id"),
        ("zsm,en", "id"),
        ("jv-ID,en;q=0.9", "id"),
        ("jw,en;q=0.9", "id"),
        ("su,en", "id"),
        ("en,ms;q=0.9", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "en"),
        ("zh-CN,en;q=0.8,ms;q=0.9", "id"),
        ("fr,de", "id"),
        ("fr-CH, fr;q=0.9, en;q=0.8, de;q=0.7, *;q=0.5", "en"),
        ("*", "id"),
        ("fr,*;q=0.1", "id"),
        ("*;q=0.1,en;q=0.05", "id"),
        ("en;q=0", "id"),
        ("en;q=0,id", "id"),
        ("id;q=0,en;q=0.1", "en"),
        ("id;q=0.0,*", "en"),
        ("id;q=0.000,fr", "en"),
        ("en-GB;q=0,en-US", "en"),
        ("id;q=0,en;q=0", "id"),
        ("en ; q = 0.5 , id ; q = 0.4", "en"),
        ("en;level=1;q=0.5,id;q=0.4", "en"),
        ("en;,id", "en"),
        ("en;q,id", "id"),
        ("en;q=1.000,id;q=0.999", "en"),
        # Malformed parts are passed over.
        ("en;q=high,id;q=0.1", "id"),
        ("id;q=high,en;q=0.1", "en"),
        ("id;q=2,en;q=0.1", "en"),
        ("id;q=-1,en;q=0.1", "en"),
        ("id;q=nan,en;q=0.1", "en"),
        ("id;q=1e0,en;q=0.1", "en"),
        (",,;,;q=1,-,en", "en"),
        ("i-klingon,x-private,english,indonesia", "id"),
        ("\xff\x00;q=\xff,en", "en"),
        ("," * 20_000, "id"),
        ("a" * 8000, "id"),
    ],
)
def test_a_header_chooses_a_language(header: str, locale: str) -> None:
    assert best_locale(header) == locale


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("id-ID,en;q=0.5", "Wajib diisi."),
        ("in-ID,en-US;q=0.8", "Wajib diisi."),
        ("ms-MY,en;q=0.9", "Wajib diisi."),
        ("en-US,id;q=0.5", "This is required."),
        (None, "Wajib diisi."),
    ],
)
def test_validation_messages_follow_the_header(
    site: httpx.Client, header: str | None, words: str
) -> None:
    headers = {} if header is None else {"Accept-Language": header}
    response = site.post("/api/leads", json={}, headers=headers)
    assert response.json()["details"]["city"] == [words]


def test_a_form_with_errors_comes_back_in_the_language_of_the_header(site: httpx.Client) -> None:
    headers = {"Accept-Language": "in-ID,en-US;q=0.8", "Accept": "text/html"}
    page = site.post("/api/leads", data={"city": "Medan"}, headers=headers).text
    assert '<html lang="id"' in page
    headers["Accept-Language"] = "en-AU,id;q=0.2"
    page = site.post("/api/leads", data={"city": "Medan"}, headers=headers).text
    assert '<html lang="en"' in page


@pytest.mark.parametrize("path", ["/api/products?limit=0", "/api/rum?days=0"])
def test_every_endpoint_follows_the_header(site: httpx.Client, path: str) -> None:
    indonesian = site.get(path, headers={"Accept-Language": "jv,en;q=0.9"}).json()
    english = site.get(path, headers={"Accept-Language": "en-SG,in;q=0.9"}).json()
    assert indonesian["title"] == "Ada isian yang perlu diperbaiki."
    assert english["title"] == "Some fields need to be corrected."


@pytest.mark.parametrize(
    "path",
    ["/api/health?deep=true", "/api/leads/export", "/api/leads/subject", "/api/cron/watch"],
)
def test_operators_are_answered_in_english_unless_they_ask_otherwise(
    site: httpx.Client, path: str
) -> None:
    answer = site.get(path)
    assert (answer.status_code, answer.json()["title"]) == (401, "The token is missing or wrong.")
    indonesian = site.get(path, headers={"Accept-Language": "id"}).json()
    assert indonesian["title"] == "Token tidak ada atau salah."
