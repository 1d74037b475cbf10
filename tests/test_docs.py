"""What is written for people and shown to visitors, held to the code it speaks of."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from dev.build import openapi, settings_reference
from lib.leads import consent
from lib.leads.submission import Submission
from lib.settings import all_settings
from ops.settings import OperatorSettings

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "dev/README.md",
    "dev/bench/README.md",
    "docs/capacity.md",
    "docs/decisions.md",
    "docs/deploy.md",
    "docs/settings.md",
    "ops/README.md",
)
FORMS = {"id": "public/index.html", "en": "public/en/index.html"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- Variables.


def variables() -> set[str]:
    return {variable.name for variable in all_settings(OperatorSettings)}


def example_names() -> list[str]:
    """The names .env.example gives a line to, commented out or not."""
    return re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=", text_of(".env.example"), re.M)


@pytest.mark.parametrize("name", sorted(variables()))
def test_a_variable_is_in_the_example(name: str) -> None:
    assert name in example_names(), f".env.example has no line for {name}"


# Read by `vercel build`, not by the functions: there is no Setting for them.
BUILD_VARIABLES = {"VERCEL_PYTHON_COMPILEALL", "VERCEL_RUNTIME_PYTHON"}


def test_the_settings_document_is_what_the_code_says() -> None:
    written = text_of(settings_reference.FILE.as_posix())
    assert written == settings_reference.render(ROOT), "run `python3 -m dev settings`"


def test_the_example_has_no_variable_that_nobody_reads() -> None:
    assert set(example_names()) - variables() - BUILD_VARIABLES == set()
    assert len(example_names()) == len(set(example_names())), "a variable has two lines"


def test_the_example_holds_no_secret() -> None:
    lines = dict(re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=(.*)$", text_of(".env.example"), re.M))
    for variable in all_settings(OperatorSettings):
        if variable.secret:
            value = lines.get(variable.name, "")
            assert not re.search(r"[A-Za-z0-9+/_-]{24,}", value), f"{variable.name} looks real"


# --- Links.


def links(document: str) -> Iterator[str]:
    """Where the links of a Markdown file lead, code left out."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text_of(document), flags=re.M | re.S)
    yield from re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", prose)
    yield from re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose, re.M)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_files_lead_somewhere(document: str) -> None:
    for link in links(document):
        if not re.match(r"[a-z]+:|#", link):
            path = (ROOT / document).parent / unquote(link.partition("#")[0])
            assert path.exists(), f"{document} links to {link}"
            assert path.resolve().is_relative_to(ROOT.resolve()), f"{document} links to {link}"


# --- Forms.


class Form(HTMLParser):
    """The lead form's controls (name -> attributes of each), and the page's visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.controls: dict[str, list[dict[str, str | None]]] = {}
        self._within = False
        self._text: list[str] = []
        self.feed(page)
        self.close()

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "form":
            self._within = values.get("action") == "/api/leads"
        if self._within and tag in ("input", "select", "textarea", "button"):
            name = values.get("name")
            if name is not None:
                self.controls.setdefault(name, []).append(values)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._within = False

    def handle_data(self, data: str) -> None:
        self._text.append(data)


def form(locale: str) -> Form:
    return Form(text_of(FORMS[locale]))


@pytest.mark.parametrize("locale", FORMS)
def test_the_form_asks_for_the_fields_the_code_knows(locale: str) -> None:
    names = set(form(locale).controls)
    assert names - {"redirect"} == set(Submission._fields)


@pytest.mark.parametrize("locale", FORMS)
def test_the_form_shows_the_sentence_that_is_recorded(locale: str) -> None:
    page = form(locale)
    assert consent.SENTENCES[consent.CURRENT_VERSION][locale] in page.text
    assert [each["value"] for each in page.controls["consent_version"]] == [consent.CURRENT_VERSION]
    assert [each["value"] for each in page.controls["locale"]] == [locale]


@pytest.mark.parametrize("locale", FORMS)
def test_consent_is_given_and_never_presumed(locale: str) -> None:
    (box,) = form(locale).controls["consent"]
    assert box["type"] == "checkbox"
    assert "checked" not in box


@pytest.mark.parametrize("locale", FORMS)
def test_the_form_offers_the_kinds_and_limits_the_code_takes(locale: str) -> None:
    controls = form(locale).controls
    fields = openapi.lead()["properties"]
    option_values = {each["value"] for each in controls["salon_type"]}
    assert option_values == set(fields["salon_type"]["enum"])
    required = {*Submission._fields} - {*Submission._field_defaults}
    required_fields = {
        name for name, each in controls.items() if any("required" in control for control in each)
    }
    assert required_fields == required


@pytest.mark.parametrize("locale", FORMS)
def test_the_form_leaves_every_limit_to_the_code(locale: str) -> None:
    """What a browser refuses or cuts off by itself, without JavaScript too."""
    own_rules = {"maxlength", "minlength", "pattern", "min", "max", "step"}
    for name, each in form(locale).controls.items():
        for control in each:
            assert own_rules.isdisjoint(control), name
            assert control.get("type") not in ("email", "number", "url"), name
