"""The site's own pages with a visitor's words in them, for whoever has no JavaScript.

The pages under public/ are plain HTML and the only copy: here a form is given back with what
was typed and the faults beside it, and the thank-you page is given its reference. Everything
put in is escaped; nothing else of a page is touched.
"""

from collections.abc import Mapping
from html import escape
from html.parser import HTMLParser
from pathlib import Path

from lib.problems import Details

PUBLIC = Path(__file__).parents[2] / "public"
FORMS = {"id": "index.html", "en": "en/index.html"}
THANKS = {"id": "thanks/id.html", "en": "thanks/en.html"}


def faulty_form(locale: str, typed: Mapping[str, str], faults: Details, summary: str) -> str:
    """The form page in `locale` with `typed` in its fields and every fault shown beside its own."""
    page = (PUBLIC / FORMS[locale]).read_text(encoding="utf-8")
    names = _Names()
    names.feed(page)
    filler = _FormFiller(typed, faults, summary, names.found)
    filler.feed(page)
    filler.close()
    return "".join(filler.out)


def thank_you(locale: str, ref: str | None, whatsapp: str | None) -> str:
    """The thank-you page with its reference and its chat link; each left out if None."""
    page = (PUBLIC / THANKS[locale]).read_text(encoding="utf-8")
    filler = _ThanksFiller(ref, whatsapp)
    filler.feed(page)
    filler.close()
    return "".join(filler.out)


class _Copier(HTMLParser):
    """Copies a page to `out` as it stands. Subclasses change single tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.out: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.out.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self.out.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.out.append(data)

    def handle_entityref(self, name: str) -> None:
        self.out.append(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.out.append(f"&#{name};")

    def handle_comment(self, data: str) -> None:
        self.out.append(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self.out.append(f"<!{decl}>")

    def put(self, tag: str, attrs: Mapping[str, str | None]) -> None:
        """Write a start tag with these attributes instead of the page's own."""
        written = (
            f" {name}" if value is None else f' {name}="{escape(value)}"'
            for name, value in attrs.items()
        )
        self.out.append(f"<{tag}{''.join(written)}>")


class _Names(HTMLParser):
    """What a form calls its fields: labels by control, legends by fieldset."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.fieldset = ""
        self.naming: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "fieldset":
            self.fieldset = values.get("id") or ""
        if tag in ("label", "legend"):
            self.naming = values.get("for") or self.fieldset

    def handle_endtag(self, tag: str) -> None:
        if tag in ("label", "legend"):
            self.naming = None

    def handle_data(self, data: str) -> None:
        if self.naming is not None:
            self.found[self.naming] = self.found.get(self.naming, "") + data


class _FormFiller(_Copier):
    def __init__(
        self,
        typed: Mapping[str, str],
        faults: Details,
        summary: str,
        names: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.names = names
        self.typed = typed
        self.faults = faults
        self.summary = summary
        self.select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        name = values.get("name") or ""
        if tag in ("input", "textarea", "select") and name in self.faults:
            values["aria-invalid"] = "true"
        if tag == "input" and name in self.typed:
            self._fill(values, self.typed[name])
        if tag == "select":
            self.select = name
        if tag == "option" and self.select in self.typed:
            values.pop("selected", None)
            if values.get("value") == self.typed[self.select]:
                values["selected"] = None
        if "data-errors-summary" in values:
            values.pop("hidden", None)
        if tag == "details":
            values["open"] = None  # a fault, or what was typed, may be inside
        self.put(tag, values)
        self._inside(tag, values, name)

    def _fill(self, values: dict[str, str | None], typed: str) -> None:
        kind = values.get("type", "text")
        if kind == "radio":
            ticked = values.get("value") == typed
        elif kind == "checkbox":
            ticked = typed.strip().lower() in ("on", "true", "1")
        else:
            values["value"] = typed
            return
        values.pop("checked", None)
        if ticked:
            values["checked"] = None

    def _inside(self, tag: str, values: Mapping[str, str | None], name: str) -> None:
        if tag == "textarea" and name in self.typed:
            # A leading newline is dropped by browsers, so one is given away.
            self.out.append("\n" + escape(self.typed[name]))
        about = values.get("data-error-for")
        if about == "_":
            self.out.append(escape(" ".join([self.summary, *self.faults.get("_", [])])))
        elif about in self.faults:
            self.out.append(escape(" ".join(self.faults[about])))
        if "data-errors-list" in values:
            self.out += [self._line(field) for field in self.faults if field != "_"]

    def _line(self, field: str) -> str:
        name = " ".join(self.names.get(field, field).split())
        words = f"{name}: {' '.join(self.faults[field])}"
        return f'<li><a href="#{escape(field)}">{escape(words)}</a></li>'

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self.select = ""
        super().handle_endtag(tag)


class _ThanksFiller(_Copier):
    def __init__(self, ref: str | None, whatsapp: str | None) -> None:
        super().__init__()
        self.ref = ref
        self.whatsapp = whatsapp

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "data-ref-block" in values and self.ref is None:
            values["hidden"] = None
        if "data-whatsapp" in values:
            values |= {"hidden": None} if self.whatsapp is None else {"href": self.whatsapp}
        self.put(tag, values)
        if "data-ref" in values and self.ref is not None:
            self.out.append(escape(self.ref))
