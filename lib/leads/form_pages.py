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

PUBLIC_DIR = Path(__file__).parents[2] / "public"
FORM_FILES = {"id": "index.html", "en": "en/index.html"}
THANK_YOU_FILES = {"id": "thanks/id.html", "en": "thanks/en.html"}


def render_form_with_errors(
    locale: str, typed: Mapping[str, str], faults: Details, summary: str
) -> str:
    """The form page in `locale` with `typed` in its fields and every fault shown beside its own."""
    page = (PUBLIC_DIR / FORM_FILES[locale]).read_text(encoding="utf-8")
    names = _LabelCollector()
    names.feed(page)
    filler = _FormRewriter(typed, faults, summary, names.labels)
    filler.feed(page)
    filler.close()
    return "".join(filler.output)


def render_thank_you(locale: str, ref: str | None, whatsapp: str | None) -> str:
    """The thank-you page with its reference and its chat link; each left out if None."""
    page = (PUBLIC_DIR / THANK_YOU_FILES[locale]).read_text(encoding="utf-8")
    filler = _ThankYouRewriter(ref, whatsapp)
    filler.feed(page)
    filler.close()
    return "".join(filler.output)


class _HtmlRewriter(HTMLParser):
    """Copies a page to `out` as it stands. Subclasses change single tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.output: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.output.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self.output.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.output.append(data)

    def handle_entityref(self, name: str) -> None:
        self.output.append(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.output.append(f"&#{name};")

    def handle_comment(self, data: str) -> None:
        self.output.append(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self.output.append(f"<!{decl}>")

    def write_tag(self, tag: str, attrs: Mapping[str, str | None]) -> None:
        """Write a start tag with these attributes instead of the page's own."""
        written = (
            f" {name}" if value is None else f' {name}="{escape(value)}"'
            for name, value in attrs.items()
        )
        self.output.append(f"<{tag}{''.join(written)}>")


class _LabelCollector(HTMLParser):
    """What a form calls its fields: labels by control, legends by fieldset."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: dict[str, str] = {}
        self.fieldset = ""
        self.current_control: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "fieldset":
            self.fieldset = values.get("id") or ""
        if tag in ("label", "legend"):
            self.current_control = values.get("for") or self.fieldset

    def handle_endtag(self, tag: str) -> None:
        if tag in ("label", "legend"):
            self.current_control = None

    def handle_data(self, data: str) -> None:
        if self.current_control is not None:
            self.labels[self.current_control] = self.labels.get(self.current_control, "") + data


class _FormRewriter(_HtmlRewriter):
    def __init__(
        self,
        typed: Mapping[str, str],
        faults: Details,
        summary: str,
        names: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.labels = names
        self.submitted = typed
        self.errors = faults
        self.summary = summary
        self.select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        name = values.get("name") or ""
        if tag in ("input", "textarea", "select") and name in self.errors:
            values["aria-invalid"] = "true"
        if tag == "input" and name in self.submitted:
            self._set_value(values, self.submitted[name])
        if tag == "select":
            self.select = name
        if tag == "option" and self.select in self.submitted:
            values.pop("selected", None)
            if values.get("value") == self.submitted[self.select]:
                values["selected"] = None
        if "data-errors-summary" in values:
            values.pop("hidden", None)
        if tag == "details":
            values["open"] = None  # a fault, or what was typed, may be inside
        self.write_tag(tag, values)
        self._write_content(tag, values, name)

    def _set_value(self, values: dict[str, str | None], typed: str) -> None:
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

    def _write_content(self, tag: str, values: Mapping[str, str | None], name: str) -> None:
        if tag == "textarea" and name in self.submitted:
            # A leading newline is dropped by browsers, so one is given away.
            self.output.append("\n" + escape(self.submitted[name]))
        about = values.get("data-error-for")
        if about == "_":
            self.output.append(escape(" ".join([self.summary, *self.errors.get("_", [])])))
        elif about in self.errors:
            self.output.append(escape(" ".join(self.errors[about])))
        if "data-errors-list" in values:
            self.output += [self._error_item(field) for field in self.errors if field != "_"]

    def _error_item(self, field: str) -> str:
        name = " ".join(self.labels.get(field, field).split())
        words = f"{name}: {' '.join(self.errors[field])}"
        return f'<li><a href="#{escape(field)}">{escape(words)}</a></li>'

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self.select = ""
        super().handle_endtag(tag)


class _ThankYouRewriter(_HtmlRewriter):
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
        self.write_tag(tag, values)
        if "data-ref" in values and self.ref is not None:
            self.output.append(escape(self.ref))
