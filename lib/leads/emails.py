"""The e-mails of a lead, rendered once and stored in the outbox with it.

Their content was typed by a stranger: subjects are one line, HTML is escaped, and nothing becomes
a link but the WhatsApp number, whose digits were validated.
"""

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from lib.leads import consent
from lib.leads.submission import Submission
from lib.leads.whatsapp import chat_link


class Email(NamedTuple):
    """kind is unique within a lead: `sales`, `acknowledgement` or `correction-N`."""

    kind: str
    sender: str
    recipients: tuple[str, ...]
    reply_to: str | None
    subject: str
    body_text: str
    body_html: str

    def to_columns(self) -> dict[str, object]:
        return {**self._asdict(), "recipients": list(self.recipients)}

    def without_reply_to(self) -> "Email":
        """The mail to sales once more, saying why it cannot be answered by e-mail."""
        note = REPLY_TO_REFUSED_NOTE.format(address=self.reply_to)
        return self._replace(
            reply_to=None,
            body_text=f"{note}\n\n{self.body_text}",
            body_html=self.body_html.replace("<h1>", f"<p>{escape(note)}</p><h1>", 1),
        )


# Label and field, in the order in which sales need them.
_LEAD_FIELDS = (
    ("Business", "business_name"),
    ("Contact", "contact_name"),
    ("WhatsApp", "phone_whatsapp"),
    ("E-mail", "email"),
    ("City", "city"),
    ("Type", "salon_type"),
    ("Chairs", "chair_count"),
    ("Specialization", "specialization"),
    ("Brands in use", "current_brands_used"),
    ("Monthly spend", "monthly_spend_range"),
    ("Message", "message"),
)
_SOURCE_FIELDS = (
    ("Language", "locale"),
    ("Page", "page_url_current"),
    ("First page", "page_url_initial"),
    ("Referrer", "referrer"),
    ("utm_source", "utm_source"),
    ("utm_medium", "utm_medium"),
    ("utm_campaign", "utm_campaign"),
    ("utm_term", "utm_term"),
    ("utm_content", "utm_content"),
    ("Consent version", "consent_version"),
)

_CHAT_TEXT = {
    "id": "Halo {name}, terima kasih sudah menghubungi Alfa Beauty. Kode Anda {ref}.",
    "en": "Hello {name}, thank you for contacting Alfa Beauty. Your reference is {ref}.",
}

# Subject and paragraphs.
_ACKNOWLEDGEMENT_TEXTS = {
    "id": (
        "Kami sudah menerima data Anda ({ref})",
        "Halo,",
        "Terima kasih atas minat Anda bermitra dengan Alfa Beauty. Tim kami akan menghubungi "
        "Anda lewat WhatsApp dalam 1 hari kerja.",
        "Kode Anda: {ref}. Sebutkan kode ini bila Anda menghubungi kami.",
        "Bila bukan Anda yang mengisi formulir di situs kami, abaikan email ini.",
        "Salam,\nAlfa Beauty",
    ),
    "en": (
        "We have received your details ({ref})",
        "Hello,",
        "Thank you for your interest in a partnership with Alfa Beauty. Our team will contact "
        "you on WhatsApp within 1 working day.",
        "Your reference: {ref}. Please mention it whenever you contact us.",
        "If it was not you who filled in the form on our site, please ignore this e-mail.",
        "Kind regards,\nAlfa Beauty",
    ),
}


def sales_email(lead: Submission, ref: str, locale: str, sender: str, to: tuple[str, ...]) -> Email:
    """Every field, the ref, and a WhatsApp link. Reply-To is the visitor's address, if given."""
    text, html = _render_sales_email(lead, ref, locale, "New lead", [])
    subject = f"New Lead: {_one_line(lead.business_name)}"
    return Email("sales", sender, to, lead.email, subject, text, html)


def correction_email(
    lead: Submission,
    ref: str,
    locale: str,
    sender: str,
    to: tuple[str, ...],
    *,
    number: int,
    before: Mapping[str, object],
) -> Email:
    """A corrected lead: every field, and the values that changed. before: their old values."""
    changed = [
        (label, f"{'-' if before[key] is None else before[key]} -> {getattr(lead, key)}")
        for label, key in _LEAD_FIELDS
        if key in before
    ]
    text, html = _render_sales_email(lead, ref, locale, "Corrected lead", changed)
    subject = f"Corrected Lead: {_one_line(lead.business_name)} ({ref})"
    return Email(f"correction-{number}", sender, to, lead.email, subject, text, html)


def _render_sales_email(
    lead: Submission, ref: str, locale: str, title: str, changed: list[tuple[str, str]]
) -> tuple[str, str]:
    """Text and HTML of an e-mail to sales."""
    version = lead.consent_version or consent.CURRENT_VERSION
    values = {**lead.to_dict(), "locale": locale, "consent_version": version}
    chat = chat_link(
        lead.phone_whatsapp, _CHAT_TEXT[locale].format(name=lead.contact_name, ref=ref)
    )
    rows = [("Ref", ref), *_labelled_values(values, _LEAD_FIELDS)]
    source = _labelled_values(values, _SOURCE_FIELDS)
    text = "\n".join(
        [title, ""]
        + [f"Changed: {label}: {value}" for label, value in changed]
        + ([""] if changed else [])
        + [f"{label}: {value}" for label, value in rows]
        + ["", f"Chat: {chat}", ""]
        + [f"{label}: {value}" for label, value in source]
        + [""]
    )
    html = _html_page(
        f"<h1>{escape(lead.business_name)}</h1>"
        + (f"<h2>Changed</h2>{_html_table(changed)}" if changed else "")
        + f'<p><a href="{escape(chat)}">Chat on WhatsApp: {escape(lead.phone_whatsapp)}</a></p>'
        f"{_html_table(rows)}<h2>Source</h2>{_html_table(source)}"
    )
    return text, html


REPLY_TO_REFUSED_NOTE = (
    "The mail service refused {address} as the address to answer to: replies do not reach the "
    "sender. Use WhatsApp."
)


BEGIN_SEALED_LEAD = "-----BEGIN ALFA LEAD-----"
END_SEALED_LEAD = "-----END ALFA LEAD-----"


def attach_sealed_lead(email: Email, sealed: str) -> Email:
    """The e-mail to sales with a sealed copy of the lead, for `ops leads import`."""
    lines = [sealed[i : i + 76] for i in range(0, len(sealed), 76)]
    note = (
        "The database could not be reached: this mail is the only record of the lead so far.\n"
        "Keep it. An engineer imports it with: python3 -m ops leads import FILE"
    )
    block = "\n".join([BEGIN_SEALED_LEAD, *lines, END_SEALED_LEAD])
    return email._replace(
        body_text=f"{email.body_text}\n{note}\n\n{block}\n",
        body_html=email.body_html.replace(
            "</body>", f"<p>{escape(note)}</p><pre>{escape(block)}</pre></body>"
        ),
    )


def acknowledgement_email(email: str, ref: str, locale: str, sender: str) -> Email:
    """The address may be another person's: nothing that the visitor typed is repeated."""
    subject, *paragraphs = (text.format(ref=ref) for text in _ACKNOWLEDGEMENT_TEXTS[locale])
    text = "\n\n".join(paragraphs) + "\n"
    html = _html_page("".join(f"<p>{escape(p).replace(chr(10), '<br>')}</p>" for p in paragraphs))
    return Email("acknowledgement", sender, (email,), None, subject, text, html)


def _one_line(text: str) -> str:
    """A name may hold Unicode's line separators, which some programs take for a header's end."""
    return " ".join(text.splitlines())


def _labelled_values(
    values: dict[str, object], labels: tuple[tuple[str, str], ...]
) -> list[tuple[str, str]]:
    return [(label, "-" if values[key] is None else str(values[key])) for label, key in labels]


def _html_table(rows: list[tuple[str, str]]) -> str:
    cell = "padding:4px 12px 4px 0;vertical-align:top"
    body = "".join(
        f'<tr><th align="left" style="{cell}">{escape(label)}</th>'
        f'<td style="{cell};white-space:pre-wrap">{escape(value)}</td></tr>'
        for label, value in rows
    )
    return f"<table>{body}</table>"


def _html_page(body: str) -> str:
    style = "font-family:Helvetica,Arial,sans-serif;color:#222;line-height:1.5"
    return f'<!doctype html><html><body style="{style}">{body}</body></html>'
