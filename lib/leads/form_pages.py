"""Renders the form with its errors, and the thank-you page, for browsers without JavaScript.

Both are the plain pages under public/, rewritten tag by tag, so there is no second template. The
rule a newcomer would break: everything that is inserted is escaped.
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
    locale: str, submitted: Mapping[str, str], errors: Details, summary: str
) -> str:
    """The form in `locale` with the submitted values, and every error beside its field."""
    page = (PUBLIC_DIR / FORM_FILES[locale]).read_text(encoding="utf-8")
    collector = _LabelCollector()
    collector.feed(page)
    return _FormRewriter(submitted, errors, summary, collector.labels).rewrite(page)


def render_thank_you(locale: str, ref: str | None, whatsapp: str | None) -> str:
    """The thank-you page with its reference and its chat link; each left out if None."""
    page = (PUBLIC_DIR / THANK_YOU_FILES[locale]).read_text(encoding="utf-8")
    return _ThankYouRewriter(ref, whatsapp).rewrite(page)


class _HtmlRewriter(HTMLParser):
    """Copies a page as it is. Subclasses change single tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.output: list[str] = []

    def rewrite(self, page: str) -> str:
        self.feed(page)
        self.close()
        return "".join(self.output)

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
        attributes = (
            f" {name}" if value is None else f' {name}="{escape(value)}"'
            for name, value in attrs.items()
        )
        self.output.append(f"<{tag}{''.join(attributes)}>")


class _LabelCollector(HTMLParser):
    """The texts of labels by control, and of legends by fieldset."""

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
        submitted: Mapping[str, str],
        errors: Details,
        summary: str,
        labels: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.submitted = submitted
        self.errors = errors
        self.labels = labels
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
            values["autofocus"] = None
        if tag == "details":
            values["open"] = None  # an error or a value may be inside
        self.write_tag(tag, values)
        self._write_content(tag, values, name)

    def _set_value(self, values: dict[str, str | None], submitted: str) -> None:
        input_type = values.get("type", "text")
        if input_type not in ("radio", "checkbox"):
            values["value"] = submitted
            return
        values.pop("checked", None)
        on = submitted.strip().lower() in ("on", "true", "1")
        if on if input_type == "checkbox" else values.get("value") == submitted:
            values["checked"] = None

    def _write_content(self, tag: str, values: Mapping[str, str | None], name: str) -> None:
        if tag == "textarea" and name in self.submitted:
            # Browsers drop a leading newline.
            self.output.append("\n" + escape(self.submitted[name]))
        field = values.get("data-error-for")
        if field == "_":
            self.output.append(escape(" ".join([self.summary, *self.errors.get("_", [])])))
        elif field in self.errors:
            self.output.append(escape(" ".join(self.errors[field])))
        if "data-errors-list" in values:
            self.output += [self._error_item(field) for field in self.errors if field != "_"]

    def _error_item(self, field: str) -> str:
        label = " ".join(self.labels.get(field, field).split())
        text = f"{label}: {' '.join(self.errors[field])}"
        return f'<li><a href="#{escape(field)}">{escape(text)}</a></li>'

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
