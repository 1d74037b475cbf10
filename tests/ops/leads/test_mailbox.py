"""Sealed leads are read out of whatever mail programs and mailboxes make of a mail."""

import base64
import mailbox as standard
import quopri
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from html import escape
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.encryption import SecretBoxCipher
from lib.leads import emails, repository, submission
from lib.leads.emails import Email
from lib.leads.lead import Lead, Recipients
from lib.problems import DecryptionError
from lib.settings import encryption_keys
from ops import cli
from ops.leads import mailbox
from tests.conftest import LEAD

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

VAULT = SecretBoxCipher((b"k" * 32,))
SALES = ("sales@alfabeauty.test",)


def lead_of(number: int = 0) -> Lead:
    message = Lead.from_submission(
        submission.parse({**LEAD, "message": "Halo — „ja“ " + "!" * number}),
        key=None,
        locale="id",
        now=datetime(2026, 11, 28, 3, 0, tzinfo=UTC),
        ip_address=None,
        user_agent=None,
    )
    return message._replace(arrival="mail")


def letter_of(lead: Lead, vault: SecretBoxCipher = VAULT) -> Email:
    plain = repository.render_emails(lead, Recipients("noreply@alfabeauty.test", SALES))[0]
    return emails.attach_sealed_lead(plain, vault.encrypt(lead.to_json()))


LEADS = [lead_of(number) for number in range(3)]
LETTERS = [letter_of(lead) for lead in LEADS]
TEXT, HTML = LETTERS[0].body_text, LETTERS[0].body_html


def opened(sealed: str) -> Lead | None:
    try:
        return Lead.from_json(VAULT.decrypt(sealed))
    except DecryptionError:
        return None


def mail(text: str = TEXT, html: str | None = HTML, cte: str = "base64") -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "noreply@alfabeauty.test", SALES[0]
    message["Subject"] = "New Lead: Barber Maju Jaya"
    message.set_content(text, cte=cte)
    if html is not None:
        message.add_alternative(html, subtype="html", cte=cte)
    return message


def raw(body: bytes, *headers: str) -> bytes:
    lines = ["From: a@b.co", "Subject: Fwd: New Lead", "MIME-Version: 1.0", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def other_boundary(cte: str) -> bytes:
    return mail(cte=cte).as_bytes().replace(b'boundary="=', b'boundary="x')


def forwarded(inner: EmailMessage, depth: int = 1) -> EmailMessage:
    for _ in range(depth):
        outer = EmailMessage()
        outer["From"], outer["Subject"] = "a@b.co", "Fwd"
        outer.set_content("See below.")
        outer.add_attachment(inner)
        inner = outer
    return inner


def attached(kind: str, name: str) -> bytes:
    outer = EmailMessage()
    outer["From"], outer["Subject"] = "a@b.co", "Fwd"
    outer.set_content("See the file.")
    main, _, sub = kind.partition("/")
    outer.add_attachment(mail().as_bytes(), maintype=main, subtype=sub, filename=name)
    return outer.as_bytes()


def lines_as(opening: str, closing: str = "") -> str:
    lines = "\n".join(f"{opening}{escape(line)}{closing}" for line in TEXT.splitlines())
    return f"<html><body>{lines}</body></html>"


def quoted(mark: str) -> str:
    return "".join(f"{mark}{line}\n" for line in TEXT.splitlines())


OUTLOOK = (
    '<html xmlns:o="urn:schemas-microsoft-com:office:office"><head><style>p {margin:0}</style>'
    "<!--[if mso]><xml></xml><![endif]--></head><body lang=EN-US>"
    + "".join(
        f"<p class=MsoNormal><span style='color:red'>{escape(line)}<o:p></o:p></span></p>\r\n"
        for line in TEXT.splitlines()
    )
    + "</body></html>"
)
NBSP = TEXT.replace(" ", "\xa0")
FLOWED = "\n".join(part for line in TEXT.splitlines() for part in (textwrap.wrap(line, 40) or [""]))

CASES: dict[str, bytes | Callable[[], bytes]] = {
    "as sent": mail().as_bytes(),
    "text alone": mail(html=None, cte="7bit" if TEXT.isascii() else "8bit").as_bytes(),
    "page alone": raw(HTML.encode(), "Content-Type: text/html; charset=utf-8"),
    "unknown charset": raw(TEXT.encode(), "Content-Type: text/plain; charset=windows-874"),
    "nonsense charset": raw(TEXT.encode(), 'Content-Type: text/plain; charset="\\x00 ü"'),
    "charset by rfc 2231": raw(TEXT.encode(), "Content-Type: text/plain; charset*=x'y"),
    "wrong charset": raw(TEXT.encode(), "Content-Type: text/plain; charset=us-ascii"),
    "utf-16 part": raw(TEXT.encode("utf-16"), "Content-Type: text/plain; charset=utf-16"),
    "utf-7 claimed": raw(TEXT.encode(), "Content-Type: text/plain; charset=utf-7"),
    "base64 claimed, plain": raw(TEXT.encode(), "Content-Transfer-Encoding: base64"),
    "plain claimed, base64": raw(base64.encodebytes(TEXT.encode()),
                                 "Content-Transfer-Encoding: 7bit"),
    "quoted-printable claimed, plain": raw(TEXT.encode(),
                                           "Content-Transfer-Encoding: quoted-printable"),
    "plain claimed, quoted-printable": raw(quopri.encodestring(TEXT.encode())),
    "an unheard-of encoding": raw(TEXT.encode(), "Content-Transfer-Encoding: x-rot"),
    "broken base64": raw(base64.encodebytes(TEXT.encode()).rstrip(b"=\n") + b"\n!",
                         "Content-Transfer-Encoding: base64"),
    "multipart without boundary": raw(TEXT.encode(), "Content-Type: multipart/mixed"),
    "multipart never ended": mail().as_bytes().rpartition(b"--")[0].rpartition(b"--")[0],
    "multipart of another boundary": other_boundary("8bit"),
    "packed multipart of another boundary": other_boundary("base64"),
    "no header": TEXT.encode(),
    "nested forwards": forwarded(mail(), 3).as_bytes(),
    "attached as message": attached("message/x-mail", "lead.eml"),
    "attached as octets": attached("application/octet-stream", "lead.eml"),
    "attached as text": attached("text/plain", "lead.txt"),
    "br a line": raw(lines_as("", "<br>").encode(), "Content-Type: text/html"),
    "br alone": lines_as("", "<br/>").replace("\n", "").encode(),
    "pre a line": raw(lines_as("<pre>", "</pre>").encode(), "Content-Type: text/html"),
    "div a line": raw(lines_as("<div>", "</div>").encode(), "Content-Type: text/html"),
    "quoted page": raw(lines_as("&gt;&nbsp;", "<br>").encode(), "Content-Type: text/html"),
    "page escaped twice": escape(lines_as("&gt; ", "<br>")).encode(),
    "page as text": lines_as("&gt; ", "").encode(),
    "outlook's page": OUTLOOK.encode("cp1252", "replace"),
    "outlook's page in utf-16": OUTLOOK.encode("utf-16"),
    "outlook's page in utf-16 without mark": OUTLOOK.encode("utf-16-le"),
    "text in utf-16": TEXT.encode("utf-16"),
    "text in utf-16 big": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "mail in utf-16": mail().as_bytes().decode().encode("utf-16"),
    "text with mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "outlook's own file": b"\xd0\xcf\x11\xe0" + bytes(501) + TEXT.encode("utf-16-le") + b"\0",
    "no-break spaces": NBSP.encode(),
    "soft-wrapped": FLOWED.encode(),
    "soft-wrapped and quoted": "".join(f"> {line} \n" for line in FLOWED.splitlines()).encode(),
    "quoted": quoted("> ").encode(),
    "quoted deep": quoted(">>> > ").encode(),
    "quoted with bars": quoted("| ").encode(),
    "quoted by initials": quoted("SK> ").encode(),
    "indented": quoted("    ").encode(),
    "old mac's lines": TEXT.replace("\n", "\r").encode(),
    "windows' lines": TEXT.replace("\n", "\r\n").encode(),
    "double lines": TEXT.replace("\n", "\n\n").encode(),
    "other dashes": TEXT.replace("-----", "—–---").encode(),
    "invisible characters": TEXT.replace("\n", "\u200b\n\u00ad").encode(),
    "a mailbox": b"From a@b.co Mon Nov 23 03:00:00 2026\n" + mail().as_bytes() + b"\n",
    "wbr in the page": HTML.replace("\n", "<wbr>\n").encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_copy_is_read_however_it_was_saved(name: str) -> None:
    data = CASES[name]
    contents = mailbox.parse_file(data() if callable(data) else data, opened)
    assert list(contents.leads.values()) == [LEADS[0]], contents.damaged
    assert contents.damaged == []


def test_a_whole_mailbox_gives_every_lead_once() -> None:
    unrelated = b"From x@y.z Mon Nov 23 03:00:00 2026\nSubject: lunch?\n\nFrom here to there\n\n"
    parts = [mail(letter.body_text, letter.body_html).as_bytes() for letter in LETTERS]
    data = b"".join(
        b"From a@b.co Mon Nov 23 03:00:00 2026\n" + part + b"\n" + unrelated for part in parts * 2
    )
    assert list(mailbox.parse_file(data, opened).leads.values()) == LEADS


def damaged(text: str) -> str:
    return text.replace(f"{emails.BEGIN_SEALED_LEAD}\n", f"{emails.BEGIN_SEALED_LEAD}\nAAAA")


def test_a_part_that_is_damaged_does_not_hide_the_one_that_is_whole() -> None:
    cut = TEXT.partition(emails.END_SEALED_LEAD)[0]
    for text, html in ((damaged(TEXT), HTML), (cut, HTML), (TEXT, damaged(HTML))):
        contents = mailbox.parse_file(mail(text, html).as_bytes(), opened)
        assert list(contents.leads.values()) == [LEADS[0]]


def test_a_lead_damaged_in_every_copy_is_named_by_its_reference() -> None:
    contents = mailbox.parse_file(mail(damaged(TEXT), None).as_bytes(), opened)
    assert (contents.leads, contents.damaged) == ({}, [mailbox.DamagedCopy(LEADS[0].ref, False)])
    other_key = letter_of(LEADS[1], SecretBoxCipher((b"x" * 32,)))
    contents = mailbox.parse_file(
        mail(other_key.body_text, None).as_bytes() + TEXT.encode(), opened
    )
    assert {letter.ref for letter in contents.damaged} <= {LEADS[1].ref}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        b"\xff\xfe",
        bytes(range(256)) * 40,
        b"Content-Type: multipart/mixed; boundary=a\n\n" + b"--a\n" * 3000,
        b"".join(
            b"Content-Type: multipart/mixed; boundary=a%d\n\n--a%d\n" % (n, n) for n in range(1500)
        ),
        b"Content-Type: message/rfc822\n\n" * 1500,
        emails.BEGIN_SEALED_LEAD.encode() * 2000,
        b"<" * 20_000,
        b"From a\nX: y\n\n" * 2000,
    ],
    ids=str,
)
def test_no_file_aborts_the_import(data: bytes) -> None:
    assert mailbox.parse_file(data, opened).leads == {}
    assert mailbox.parse_file(data + b"\n\n" + TEXT.encode(), opened) is not None


# ------------------------------------------------------------------ the command


@pytest.fixture
def saved(platform: Platform, database: Rows) -> list[Email]:
    vault = SecretBoxCipher(encryption_keys(platform.environment["LEADS_ENCRYPTION_KEY"]))
    return [letter_of(lead, vault) for lead in LEADS]


def imported(platform: Platform, *arguments: str) -> int:
    return cli.main(["leads", "import", *arguments], platform.environment)


def ids(database: Rows) -> set[Any]:
    return {row["id"] for row in database.execute("select id from leads")}


def test_files_folders_and_mailboxes_are_imported_in_one_run_and_reported_one_by_one(
    platform: Platform, database: Rows, saved: list[Email], tmp_path: Path, capsys: Printed
) -> None:
    mbox = standard.mbox(str(tmp_path / "sales.mbox"))
    mbox.add(mail(saved[0].body_text, saved[0].body_html))
    mbox.add(mail("lunch?", None, "7bit"))
    mbox.close()
    maildir = standard.Maildir(str(tmp_path / "Maildir"))
    maildir.add(mail(saved[1].body_text, saved[1].body_html))
    maildir.close()
    (tmp_path / "page.htm").write_bytes(saved[2].body_html.encode("utf-16"))
    (tmp_path / "odd.eml").write_bytes(raw(b"?", "Content-Type: text/plain; charset=windows-874"))
    paths = [str(tmp_path / name) for name in ("sales.mbox", "Maildir", "page.htm", "odd.eml")]
    assert imported(platform, *paths) == 0
    output = capsys.readouterr().out
    assert ids(database) == {lead.id for lead in LEADS}
    assert f"{paths[0]}: 1 new, 0 already there, 0 unreadable" in output
    assert f"{paths[3]}: no copies" in output
    assert "3 leads" in output.splitlines()[-1]
    assert imported(platform, *paths) == 0
    output = capsys.readouterr().out
    assert f"{paths[2]}: 0 new, 1 already there, 0 unreadable" in output
    assert f"already there {LEADS[2].id}" in output


def test_a_damaged_copy_of_a_lead_that_another_file_has_whole_is_said_and_no_failure(
    platform: Platform, database: Rows, saved: list[Email], tmp_path: Path, capsys: Printed
) -> None:
    (tmp_path / "a.txt").write_text(damaged(saved[0].body_text), encoding="utf-8")
    (tmp_path / "b.txt").write_text(saved[0].body_text, encoding="utf-8")
    assert imported(platform, str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert f"{LEADS[0].ref}: damaged copy" in output
    assert ids(database) == {LEADS[0].id}
    (tmp_path / "b.txt").unlink()
    assert imported(platform, str(tmp_path)) == 1


def test_a_file_that_is_missing_does_not_stop_the_others(
    platform: Platform, database: Rows, saved: list[Email], tmp_path: Path, capsys: Printed
) -> None:
    (tmp_path / "b.txt").write_text(saved[0].body_text, encoding="utf-8")
    assert imported(platform, str(tmp_path / "gone"), str(tmp_path / "b.txt")) == 2
    printed = capsys.readouterr()
    assert ids(database) == {LEADS[0].id}
    assert "gone" in printed.err
    assert len(printed.err.splitlines()) == 1


def test_a_lead_that_postgres_refuses_is_said_and_does_not_stop_the_others(
    platform: Platform, database: Rows, saved: list[Email], tmp_path: Path, capsys: Printed
) -> None:
    database.execute(f"alter table leads add constraint odd check (id <> '{LEADS[0].id}')".encode())
    try:
        (tmp_path / "b.txt").write_text(saved[0].body_text + saved[1].body_text, encoding="utf-8")
        assert imported(platform, str(tmp_path)) == 1
    finally:
        database.execute("alter table leads drop constraint odd")
    assert ids(database) == {LEADS[1].id}
    assert "CheckViolation" in capsys.readouterr().out
