"""Sealed leads out of saved e-mails, whatever mail programs and mailboxes did to them.

Reads an e-mail (.eml), a mailbox (mbox), a page or a text saved from a mail program, in any
charset. Headers are not trusted: each text is decoded in several ways, and the way that opens the
most sealed copies counts. The rule a newcomer would break: no e-mail stops the reading of others.
"""

import base64
import binascii
import email
import email.policy
import quopri
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from lib.leads.lead import Lead

type Decrypt = Callable[[str], Lead | None]
"""A sealed copy -> the lead; None when it cannot be decrypted."""

# The markers as they come back: other dashes, lines folded and quoted.
_DASH = "-\u2010-\u2015\u2212\u00ad"
_GAP = r"(?:[\s\xa0>|]|&nbsp;)*"
_BEGIN = re.compile(rf"[{_DASH}]{{3,}}{_GAP}BEGIN{_GAP}ALFA{_GAP}LEAD{_GAP}[{_DASH}]{{3,}}", re.I)
_END = re.compile(rf"[{_DASH}]{{3,}}{_GAP}END{_GAP}ALFA{_GAP}LEAD", re.I)
_REF = re.compile(r"\bALFA-[0-9A-Z]{5,13}\b")
_QUOTE_PREFIX = re.compile(r"^[ \t\xa0]*(?:[A-Za-z]{0,6}[>|][ \t\xa0]*)+", re.M)
_MBOX_SEPARATOR = re.compile(rb"^From [^\r\n]*(?:\r\n|\n|\r)(?=[!-9;-~]+:)", re.M)
_BASE64_LINES = re.compile(rb"(?:[A-Za-z0-9+/]{40,}\r?\n)+[A-Za-z0-9+/]*={0,2}")
_HTML_TAG = re.compile(
    r"<(?:br|p|div|pre|html|body|span|td|blockquote|font)\b|&(?:gt|nbsp|#\d+);", re.I
)
_LINE_BREAKING_TAGS = {
    "br",
    "p",
    "div",
    "pre",
    "tr",
    "li",
    "blockquote",
    "td",
    "table",
    "body",
    "html",
}
_PARSE_ERRORS = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
MAX_COPY_CHARACTERS = 40_000  # characters; a lead's fields have limits


@dataclass(frozen=True, slots=True)
class DamagedCopy:
    """A sealed copy that cannot be decrypted. ref: the last reference in the text before it.

    truncated: its end is missing, and no other part of the e-mail has the whole copy.
    """

    ref: str | None
    truncated: bool


@dataclass(slots=True)
class MailboxContents:
    """Every submission once, and the copies that cannot be decrypted."""

    leads: dict[str, Lead] = field(default_factory=dict)
    damaged: list[DamagedCopy] = field(default_factory=list)

    def add(self, more: "MailboxContents") -> None:
        self.leads |= more.leads
        self.damaged += more.damaged

    @property
    def refs(self) -> set[str]:
        return {lead.ref for lead in self.leads.values()}


def list_files(path: Path) -> list[Path]:
    """The file itself, or every file below a folder (a Maildir too), in order."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def parse_file(data: bytes, decrypt: Decrypt) -> MailboxContents:
    """Every lead in a file."""
    data = _utf16_to_utf8(data)
    contents = MailboxContents()
    for mail in _MBOX_SEPARATOR.split(data):
        if mail.strip():
            contents.add(_parse_mail(mail, decrypt))
    # A file that is no e-mail, or one so broken that its parts are not found.
    whole = _best_reading([_parse_text(text, decrypt) for text in _iter_texts(data)])
    if not contents.leads and not contents.damaged:
        return _best_reading(
            [whole, *(_parse_content(part, decrypt) for part in _iter_base64(data))]
        )
    contents.leads |= whole.leads
    return contents


def _parse_mail(mail: bytes, decrypt: Decrypt) -> MailboxContents:
    """One e-mail. A copy that is truncated in one part and whole in another is not lost."""
    contents, message = MailboxContents(), Message()
    try:
        message = email.message_from_bytes(mail, policy=email.policy.compat32)
        for content, charset in _iter_parts(message):
            contents.add(_parse_content(content, decrypt, charset))
    except RecursionError:  # nested on purpose
        contents.add(_parse_content(mail, decrypt))
    if message.keys():
        contents.damaged = [
            replace(copy, truncated=copy.truncated and copy.ref not in contents.refs)
            for copy in contents.damaged
        ]
    return contents


# ------------------------------------------------------------------ blocks


def _parse_text(text: str, decrypt: Decrypt) -> MailboxContents:
    """The copies between each begin marker and its end marker, or the next begin."""
    contents = MailboxContents()
    starts = list(_BEGIN.finditer(text))
    before = 0
    for number, start in enumerate(starts):
        until = starts[number + 1].start() if number + 1 < len(starts) else len(text)
        block = text[start.end() : until][:MAX_COPY_CHARACTERS]
        end = _END.search(block)
        lead = _decrypt_block(block[: end.start()] if end else block, decrypt)
        if lead is not None:
            contents.leads[f"{lead.id} {lead.body_sha256}"] = lead  # a correction has the same id
        else:
            refs = _REF.findall(text[before : start.start()])
            contents.damaged.append(DamagedCopy(refs[-1] if refs else None, end is None))
        before = start.end() + (end.end() if end else 0)
    return contents


def _decrypt_block(block: str, decrypt: Decrypt) -> Lead | None:
    plain = re.sub(rf"[{_DASH[1:-1]}]", "-", block)
    unquoted = _QUOTE_PREFIX.sub("", plain)
    for text in (unquoted, plain, quopri.decodestring(unquoted.encode()).decode("latin-1")):
        sealed = re.sub(r"[^A-Za-z0-9_-]", "", text)
        if sealed and (lead := decrypt(sealed + "=" * (-len(sealed) % 4))) is not None:
            return lead
    return None


def _best_reading(readings: list[MailboxContents]) -> MailboxContents:
    """The reading with the most leads; of those, the least damaged."""
    return max(
        readings,
        key=lambda reading: (len(reading.leads), -len(reading.damaged) or -9),
        default=MailboxContents(),
    )


# ------------------------------------------------------------------ texts


def _parse_content(content: bytes, decrypt: Decrypt, charset: str = "") -> MailboxContents:
    """The best reading of one text, decoded in every way that shows a marker."""
    readings = [
        _parse_text(text, decrypt)
        for data in (content, *_iter_undecoded(content))
        for text in _iter_texts(_utf16_to_utf8(data), charset)
    ]
    return _best_reading([reading for reading in readings if reading.leads or reading.damaged])


def _iter_parts(message: Message) -> Iterator[tuple[bytes, str]]:
    """The bytes and charset of every part; of an e-mail attached as a file, those of its parts."""
    for part in message.walk():
        if part.is_multipart():
            continue
        content, charset = _decoded_payload(part), _charset(part)
        yield content, charset
        if part.get_content_maintype() != "text" and b":" in content[:200]:
            inner = email.message_from_bytes(content, policy=email.policy.compat32)
            if inner.is_multipart() or "Content-Type" in inner:
                yield from _iter_parts(inner)


def _decoded_payload(part: Message) -> bytes:
    """Decoded as its header says; raw where that fails or hides the marker."""
    try:
        raw = str(part.get_payload()).encode("utf-8", "surrogateescape")
    except _PARSE_ERRORS:
        return b""
    try:
        decoded = part.get_payload(decode=True)
    except _PARSE_ERRORS:
        return raw
    return decoded if isinstance(decoded, bytes) and b"ALFA" not in raw else raw


def _charset(part: Message) -> str:
    try:
        return part.get_content_charset() or ""
    except _PARSE_ERRORS:
        return ""


def _iter_undecoded(data: bytes) -> Iterator[bytes]:
    """Decoded content that a wrong, or no, Content-Transfer-Encoding left encoded."""
    if b"=" in data:
        yield quopri.decodestring(data)
    yield from _iter_base64(data)


def _iter_base64(data: bytes) -> Iterator[bytes]:
    for lines in _BASE64_LINES.findall(data + b"\n"):
        packed = re.sub(rb"[^A-Za-z0-9+/]", b"", lines)
        try:
            yield base64.b64decode(packed[: len(packed) // 4 * 4])
        except binascii.Error:
            continue


def _utf16_to_utf8(data: bytes) -> bytes:
    """UTF-16 as UTF-8, the whole file or a part of it (as in Outlook's format)."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").encode()
    for encoding in ("utf-16-le", "utf-16-be"):
        at = data.find("ALFA LEAD".encode(encoding))
        if at >= 0:
            even = data[at % 2 :]
            return even.decode(encoding, "replace").encode()
    return data


def _iter_texts(data: bytes, charset: str = "") -> Iterator[str]:
    """Texts with a marker: the bytes in the charsets they may be in, and without HTML markup."""
    texts = []
    for guess in (charset, "utf-8", "latin-1"):
        try:
            texts.append(data.decode(guess or "utf-8", "replace"))
        except _PARSE_ERRORS:
            continue  # an unknown charset: a copy is ASCII, as in the other two
    for text in dict.fromkeys(texts):
        shown = text
        for _ in range(3):  # escaped once, or again where it was quoted
            if "ALFA" in shown:
                yield shown
            if not _HTML_TAG.search(shown):
                break
            shown = _html_to_text(shown)


def _html_to_text(page: str) -> str:
    reader = _HtmlText()
    try:
        reader.feed(page)
        reader.close()
    except _PARSE_ERRORS:
        return ""
    return "".join(reader.parts)


class _HtmlText(HTMLParser):
    """The text of a page; a block element begins a line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _LINE_BREAKING_TAGS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _LINE_BREAKING_TAGS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)
