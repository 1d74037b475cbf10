"""Difficult texts and odd JSON bodies as leads: the short form of `python3 -m dev conform`."""

from collections.abc import Iterator

import pytest

from dev.conformance import UNLIMITED, difficult_text, json_bodies
from dev.conformance.lead_sender import LeadSender
from dev.platform.local_platform import Platform

pytestmark = pytest.mark.slow

EVERY = 8  # of the public list; the command sends all of it


@pytest.fixture
def sender(platform: Platform, database: object) -> Iterator[LeadSender]:
    with (
        platform.function("api/leads.py", **UNLIMITED) as function,
        LeadSender(function.url, platform.superuser_database_url) as made,
    ):
        yield made


def test_our_difficult_texts_are_stored_as_documented_or_refused(sender: LeadSender) -> None:
    findings = difficult_text.run(sender, difficult_text.OURS)
    assert findings.faults == []
    assert min(findings.stored, findings.refused) > 50


@pytest.mark.parametrize("as_form", [False, True], ids=["json", "form"])
def test_the_public_lists_texts_are_stored_as_documented_or_refused(
    sender: LeadSender, as_form: bool
) -> None:
    first = EVERY // 2 if as_form else 0
    texts = difficult_text.strings()[first::EVERY]
    findings = difficult_text.run(sender, texts, as_form=as_form)
    assert findings.faults == []
    assert min(findings.stored, findings.refused) > 50


def test_odd_json_bodies_are_read_as_rfc_8259_says_or_refused(sender: LeadSender) -> None:
    assert json_bodies.run(sender).faults == []


@pytest.mark.parametrize(
    ("name", "text", "stored"),
    [
        ("city", "<b>Medan</b>", "&lt;b&gt;Medan&lt;/b&gt;"),
        ("city", "e\u0301e\u0301", "e\u0301e\u0301"),
        ("city", "Medan", None),
        ("message", "a\nb", "a b"),
        ("referrer", "https://a.example/?email=x", "https://a.example/?email=x"),
        ("referrer", "https://a.example/", "https://a.example"),
    ],
)
def test_a_text_that_is_stored_otherwise_is_a_finding(
    name: str, text: str, stored: str | None
) -> None:
    assert not difficult_text.is_as_promised(name, text, stored)
