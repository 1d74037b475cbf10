"""32 requests of different people overlap in one instance of each function: nothing is mixed up.

Each request is sent but for its last byte, and the last bytes follow when all 32 are connected: so
every request has begun before one is answered. Everything holds beside Postgres and through the
pooler, where any statement may meet any server connection.
"""

import contextlib
import html
import itertools
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.build import source_tree
from dev.build.source_tree import Patch
from dev.edge import runtime
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from dev.platform.logs import LogBuffer
from dev.platform.pgbouncer import PgBouncer
from tests.conftest import ROOT, delivered, eventually
from tests.products.catalogue_data import PRODUCTS, store_catalogue

type Rows = psycopg.Connection[DictRow]
type Start = Callable[..., contextlib.AbstractContextManager[Function]]

PEOPLE = 32
LONGEST_S = 60.0
_runtime_ids = itertools.count(1_000_000)


@dataclass(frozen=True)
class Person:
    """Everything of one visitor holds their word, which is part of no other text."""

    number: int

    @property
    def word(self) -> str:
        return f"qx{self.number:03}zk"

    @property
    def locale(self) -> str:
        return "en" if self.number % 2 else "id"

    @property
    def phone(self) -> str:
        return f"+62812{30_000_000 + self.number * 7919}"

    @property
    def email(self) -> str:
        return f"{self.word}@example.com"

    @property
    def address(self) -> str:
        return f"198.51.100.{self.number + 1}"

    @property
    def request_id(self) -> str:
        return f"request-{self.word}"

    def form(self) -> dict[str, Any]:
        return {
            "business_name": f"Salon {self.word}",
            "contact_name": f"Ani {self.word}",
            "phone_whatsapp": self.phone,
            "city": f"Medan {self.word}",
            "salon_type": "SALON",
            "consent": True,
            "email": self.email,
            "message": f"Pesan {self.word}",
        }


@dataclass(frozen=True)
class Visit:
    """One request of one person. runtime_id: by which the platform files the request's logs."""

    person: Person
    target: str
    method: str = "GET"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    runtime_id: int = field(default_factory=lambda: next(_runtime_ids))

    def as_bytes(self) -> bytes:
        headers = {
            "Host": "127.0.0.1",
            "Content-Length": str(len(self.body)),
            "x-forwarded-for": self.person.address,
            "x-vercel-internal-invocation-id": f"{self.runtime_id:x}",
            "x-vercel-internal-request-id": str(self.runtime_id),
            "X-Request-Id": self.person.request_id,
            "User-Agent": f"Browser {self.person.word} (Linux; Android 14) Mobile",
            "Accept-Language": self.person.locale,
            "Connection": "close",
            **self.headers,
        }
        lines = [
            f"{self.method} {self.target} HTTP/1.1",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return html.unescape(self.body.decode())


PERSONS = [Person(number) for number in range(PEOPLE)]


def post_lead(person: Person, **changes: object) -> Visit:
    body = json.dumps({**person.form(), **changes}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"key-{person.word}"}
    return Visit(person, "/api/leads", "POST", body, headers)


def overlap(function: Function, visits: Sequence[Visit]) -> list[Reply]:
    """The replies, in the order of the visits; back when the work after them is done."""
    with contextlib.ExitStack() as connections:
        sockets = []
        for visit in visits:
            connection = socket.create_connection(("127.0.0.1", function.port), timeout=LONGEST_S)
            connections.enter_context(connection)
            connection.sendall(visit.as_bytes()[:-1])
            sockets.append(connection)
        for connection, visit in zip(sockets, visits, strict=True):
            connection.sendall(visit.as_bytes()[-1:])
        with ThreadPoolExecutor(len(sockets)) as readers:
            replies = list(readers.map(read_reply, sockets))
    eventually(lambda: len(log_lines(function, visits)) == len(visits), LONGEST_S)
    return replies


def read_reply(connection: socket.socket) -> Reply:
    response = HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def log_lines(function: Function, visits: Sequence[Visit]) -> dict[int, dict[str, Any]]:
    """The log line of each of these requests, by the id under which the platform filed it."""
    wanted = {visit.runtime_id for visit in visits}
    lines = {}
    for line in function.logs():
        if line["request_id"] in wanted and '"event": "request"' in line["message"]:
            lines[line["request_id"]] = json.loads(line["message"])
    return lines


def assert_answered_as_themselves(
    function: Function, visits: Sequence[Visit], replies: Sequence[Reply]
) -> None:
    """Own request id in the answer and in the log; no word of another person."""
    logged = log_lines(function, visits)
    for visit, reply in zip(visits, replies, strict=True):
        assert reply.headers["x-request-id"] == visit.person.request_id
        line = logged[visit.runtime_id]
        assert (line["id"], line["status"]) == (visit.person.request_id, reply.status)
        assert_holds_no_other(reply.body.decode(), visit.person)


def assert_holds_no_other(text: str, person: Person) -> None:
    others = [other.word for other in PERSONS if other != person]
    assert not [word for word in others if word in text]


# ------------------------------------------------------------------ fixtures


@pytest.fixture(scope="module")
def pooler(platform: Platform) -> Iterator[PgBouncer]:
    started = PgBouncer(platform.database_url)
    yield started
    started.close()


@pytest.fixture(params=["direct", "pooler"])
def start(request: pytest.FixtureRequest, platform: Platform, database: Rows) -> Start:
    """Starts one instance of a function, with its own log."""
    overrides = {}
    if request.param == "pooler":
        overrides["DATABASE_URL"] = request.getfixturevalue("pooler").dsn

    def start_function(name: str, root: Path = ROOT, **more: str) -> Function:
        environ = {**platform.environment, **overrides, **more}
        return runtime.start_source(root, f"api/{name}.py", environ, LogBuffer(), LONGEST_S)

    return start_function


# ------------------------------------------------------------------ leads


def check_leads(platform: Platform, database: Rows, function: Function) -> None:
    """All 32 leave a lead at once; each is answered, stored, mailed and logged as their own."""
    visits = [post_lead(person) for person in PERSONS]
    replies = overlap(function, visits)
    assert_answered_as_themselves(function, visits, replies)
    assert {reply.status for reply in replies} <= {200, 202}
    platform.cron("deliver")
    rows = {row["phone_whatsapp"]: row for row in database.execute("select * from leads")}
    assert len(rows) == PEOPLE
    logged = log_lines(function, visits)
    for visit, reply in zip(visits, replies, strict=True):
        person, row = visit.person, rows[visit.person.phone]
        assert (str(row["id"]), row["ref"][:10]) == (reply.json["id"], reply.json["ref"])
        assert logged[visit.runtime_id]["lead"] == reply.json["id"]
        stored = {name: row[name] for name in person.form() if name != "consent"}
        assert stored == {name: text for name, text in person.form().items() if name != "consent"}
        assert (row["locale"], str(row["ip_address"])) == (person.locale, person.address)
        assert person.word in row["user_agent"]
    assert_mails_are_their_own(platform, rows)


def assert_mails_are_their_own(platform: Platform, rows: dict[str, DictRow]) -> None:
    eventually(lambda: len(delivered(platform)) == 2 * PEOPLE, LONGEST_S)
    mails = {(mail["to"][0], mail["subject"]): mail for mail in delivered(platform)}
    [sales] = {to for to, subject in mails if subject.startswith("New Lead: ")}
    for person in PERSONS:
        ref = rows[person.phone]["ref"]
        mail = mails[sales, f"New Lead: Salon {person.word}"]
        assert ref in mail["text"]
        assert person.phone in mail["text"]
        assert mail["reply_to"] == [person.email]
        assert_holds_no_other(mail["text"] + mail["html"], person)
        subject = {
            "id": f"Kami sudah menerima data Anda ({ref})",
            "en": f"We have received your details ({ref})",
        }[person.locale]
        assert ref in mails[person.email, subject]["text"]


def test_leads_of_32_people_are_not_mixed_up(
    platform: Platform, database: Rows, start: Start
) -> None:
    with start("leads") as function:
        check_leads(platform, database, function)


def test_refused_leads_are_answered_with_their_own_words(start: Start) -> None:
    """Half are browsers' forms, which come back filled in; half get their own field's faults."""
    wrong = ("city", "business_name", "contact_name", "phone_whatsapp")
    visits = []
    for person in PERSONS:
        form = {**person.form(), "consent": "on", wrong[person.number // 2 % 4]: "x"}
        form["locale"] = person.locale
        if person.number % 4 < 2:
            accept, kind, body = "text/html", "x-www-form-urlencoded", urlencode(form)
        else:
            accept, kind, body = "application/json", "json", json.dumps({**form, "consent": True})
        headers = {"Accept": accept, "Content-Type": f"application/{kind}"}
        visits.append(Visit(person, "/api/leads", "POST", body.encode(), headers))
    with start("leads") as function:
        replies = overlap(function, visits)
        assert_answered_as_themselves(function, visits, replies)
    titles = set()
    for visit, reply in zip(visits, replies, strict=True):
        person = visit.person
        assert reply.status == 400
        if visit.headers["Accept"] == "text/html":
            assert f'<html lang="{person.locale}"' in reply.text
            assert person.email in reply.text
        else:
            assert set(reply.json["details"]) == {wrong[person.number // 2 % 4]}
            assert reply.json["request_id"] == person.request_id
            titles.add((person.locale, reply.json["title"]))
    assert len(titles) == len({title for _, title in titles}) == 2, "each in one language"


def test_a_lead_that_postgres_refuses_takes_no_other_with_it(
    platform: Platform, database: Rows, start: Start
) -> None:
    """Every second one's transaction fails: it is queued, and the others' rows and mails stay."""
    database.execute(
        """
        create function refuse_some() returns trigger language plpgsql as $$
        begin
          if substr(new.business_name, 9, 3)::integer % 2 = 1 then
            raise exception 'refused';
          end if;
          return new;
        end $$;
        create trigger refuse_some after insert on leads for each row execute function refuse_some()
        """
    )
    visits = [post_lead(person) for person in PERSONS]
    try:
        with start("leads") as function:
            replies = overlap(function, visits)
            assert_answered_as_themselves(function, visits, replies)
        stored = {str(row["id"]): row for row in database.execute("select * from leads")}
        outbox = Counter(str(row["lead_id"]) for row in database.execute("select * from outbox"))
    finally:
        database.execute("drop trigger refuse_some on leads; drop function refuse_some()")
    for visit, reply in zip(visits, replies, strict=True):
        row = stored.pop(reply.json["id"], None)
        assert (row is not None) == (reply.status == 200)
        if row is not None:
            assert row["phone_whatsapp"] == visit.person.phone
            assert visit.person.number % 2 == 0
            assert outbox.pop(reply.json["id"]) == 2
    assert not stored
    assert not outbox
    platform.cron("deliver")
    rows = database.execute("select phone_whatsapp, id::text as id from leads").fetchall()
    ids = {
        visit.person.phone: reply.json["id"] for visit, reply in zip(visits, replies, strict=True)
    }
    assert {row["phone_whatsapp"]: row["id"] for row in rows} == ids


# ------------------------------------------------------------------ operators


@pytest.fixture
def known_people(platform: Platform, database: Rows) -> None:
    """A lead of each, stored."""
    with platform.function("api/leads.py") as function:
        replies = overlap_in_turn(function, [post_lead(person) for person in PERSONS])
    assert {reply.status for reply in replies} == {200}


def overlap_in_turn(function: Function, visits: Sequence[Visit]) -> list[Reply]:
    return [overlap(function, [visit])[0] for visit in visits]


def operator(platform: Platform) -> dict[str, str]:
    return {"Authorization": f"Bearer {platform.environment['LEADS_ADMIN_TOKEN']}"}


@pytest.mark.usefixtures("known_people")
def test_32_questions_about_persons_are_answered_about_those(
    platform: Platform, start: Start
) -> None:
    visits = [
        Visit(person, f"/api/leads/subject?email={quote(person.email)}", headers=operator(platform))
        for person in PERSONS
    ]
    with start("leads_subject") as function:
        replies = overlap(function, visits)
        assert_answered_as_themselves(function, visits, replies)
    for visit, reply in zip(visits, replies, strict=True):
        [lead] = reply.json["leads"]
        assert (reply.status, lead["phone_whatsapp"]) == (200, visit.person.phone)


@pytest.mark.usefixtures("known_people")
def test_32_exports_hold_the_rows_that_each_asked_for(platform: Platform, start: Start) -> None:
    targets = [f"/api/leads/export?limit={person.number + 1}" for person in PERSONS]
    visits = [
        Visit(person, target, headers=operator(platform))
        for person, target in zip(PERSONS, targets, strict=True)
    ]
    with start("leads_export") as function:
        replies = overlap(function, visits)
    newest_first = [person.word for person in reversed(PERSONS)]
    for visit, reply in zip(visits, replies, strict=True):
        rows = reply.body.decode().split('"Ani ')[1:]
        assert reply.headers["x-row-count"] == str(visit.person.number + 1)
        assert [row[: len(visit.person.word)] for row in rows] == newest_first[: len(rows)]
        assert len(rows) == visit.person.number + 1


# ------------------------------------------------------------------ pages and counts


def test_32_questions_about_products_get_their_own_answers(
    platform: Platform, database: Rows, start: Start
) -> None:
    store_catalogue(platform)
    slugs = itertools.cycle(product["slug"] for product in PRODUCTS)
    targets = [
        f"/api/products?slug={next(slugs)}&locale={person.locale}"
        if person.number % 3
        else f"/api/products?limit={person.number + 1}&locale={person.locale}&sort=-name"
        for person in PERSONS
    ]
    visits = [Visit(person, target) for person, target in zip(PERSONS, targets, strict=True)]
    with start("products") as together, start("products") as alone:
        replies = overlap(together, visits)
        assert_answered_as_themselves(together, visits, replies)
        expected = overlap_in_turn(alone, [Visit(visit.person, visit.target) for visit in visits])
    for visit, reply, right in zip(visits, replies, expected, strict=True):
        assert (reply.status, reply.body) == (200, right.body), visit.target
        assert reply.headers["etag"] == right.headers["etag"]
    assert len({reply.body for reply in replies}) > PEOPLE / 2


def test_32_thank_you_pages_hold_the_reference_of_each(start: Start) -> None:
    letters = "23456789ACHJKMQRWXYZ"
    refs = {
        person: f"ALFA-2{letters[person.number % 20]}X{letters[person.number // 20]}9"
        for person in PERSONS
    }
    visits = [
        Visit(person, f"/api/thanks?locale={person.locale}&ref={refs[person]}")
        for person in PERSONS
    ]
    with start("thanks") as function:
        replies = overlap(function, visits)
        assert_answered_as_themselves(function, visits, replies)
    for visit, reply in zip(visits, replies, strict=True):
        shown = {ref for ref in refs.values() if ref in reply.text}
        assert shown == {refs[visit.person]}
        assert f'<html lang="{visit.person.locale}"' in reply.text


@pytest.mark.parametrize("name", ["health", "status"])
def test_32_questions_about_the_service_are_answered_by_their_ids(name: str, start: Start) -> None:
    visits = [Visit(person, f"/api/{name}") for person in PERSONS]
    with start(name) as function:
        replies = overlap(function, visits)
        assert_answered_as_themselves(function, visits, replies)
    assert {reply.status for reply in replies} == {200}


def test_32_beacons_are_counted_for_their_own_page_and_value(
    platform: Platform, database: Rows, start: Start
) -> None:
    def beacon(person: Person) -> Visit:
        item = {"name": "LCP", "value": 1000 + 100 * person.number, "id": person.word,
                "page": f"/{person.word}"}  # fmt: skip
        return Visit(person, "/api/rum", "POST", json.dumps([item]).encode())

    visits = [beacon(person) for person in PERSONS]
    with start("rum") as function:
        replies = overlap(function, visits)
        assert_answered_as_themselves(function, visits, replies)
        assert {reply.status for reply in replies} == {204}
        assert {line["samples"] for line in log_lines(function, visits).values()} == {1}


@pytest.mark.parametrize("name", ["deliver", "watch", "prune"])
def test_32_runs_of_a_cron_end_each_as_its_own(
    platform: Platform, database: Rows, start: Start, name: str
) -> None:
    token = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    visits = [Visit(person, f"/api/cron/{name}", headers=token) for person in PERSONS]
    with start(f"cron/{name}") as function:
        replies = overlap(function, visits)
        assert_answered_as_themselves(function, visits, replies)
    assert {reply.status for reply in replies} == {200}


# ------------------------------------------------------------------ what these tests can see


FAULTS = {
    "the lead in a module's global": Patch(
        "api/leads.py",
        "    lead, challenge_token = _parse_lead(context)\n"
        "    status, lead = _accept(context, lead, challenge_token)\n"
        "    return _respond(context, status, lead)\n",
        "    global newest\n"
        "    newest, challenge_token = _parse_lead(context)\n"
        "    status, _ = _accept(context, newest, challenge_token)\n"
        "    return _respond(context, status, newest)\n",
    ),
    "one dictionary of log fields for all": Patch(
        "lib/app.py",
        "        self.log_fields: dict[str, object] = {}\n",
        '        self.log_fields: dict[str, object] = globals().setdefault("_fields", {})\n',
    ),
    "the language in a module's global": Patch(
        "api/leads.py",
        "        locale=context.locale,\n        now=context.now,\n",
        '        locale=globals().setdefault("_locale", context.locale),\n'
        "        now=context.now,\n",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_these_tests_see_a_planted_fault(
    platform: Platform, database: Rows, tmp_path: Path, fault: str
) -> None:
    changed = source_tree.copy(ROOT, tmp_path / "tree", [FAULTS[fault]])
    function = runtime.start_source(
        changed, "api/leads.py", platform.environment, LogBuffer(), LONGEST_S
    )
    with function, pytest.raises(AssertionError):
        check_leads(platform, database, function)
