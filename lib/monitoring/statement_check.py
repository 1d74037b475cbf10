"""Would the database take a lead now? The very statements, run with a synthetic lead, rolled back.

EXPLAIN would see missing columns and rights only; NOT NULL, CHECK, triggers, policies, rules and a
read-only server show themselves when the statement runs. Everything happens in one transaction
that is always rolled back, under `set local` time limits, so it works through a transaction pooler
and leaves nothing behind: no row, no mail, nothing that is counted. The rule a newcomer would
break: what is said of a fault names tables, columns and constraints, and never a value.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeGuard
from uuid import uuid4

from lib.interfaces import RunQuery
from lib.leads import canary, outbox, queue, repository
from lib.leads.lead import CANARY_MAILBOX, Lead, Recipients
from lib.leads.submission import Submission
from lib.problems import ErasedSubject, PermanentMailError, Problem, TransientMailError
from lib.products import catalogue as product_catalogue
from lib.products.query import FILTERS, Query

if TYPE_CHECKING:
    import psycopg
    from psycopg import Connection

"""`Database.run`, whose own errors of statements pass through."""

STATEMENT_TIMEOUT_S = (
    0.8  # a statement may wait for locks, or take, so long: below deep health's second
)
# No real mail was ever due before: only the synthetic ones are claimed.
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

READ_ONLY_SQLSTATE = "25006"
MAX_SESSIONS = 8  # that an instance may keep open

SET_TIMEOUTS = """
select set_config('lock_timeout', %(lock)s, true),
  set_config('statement_timeout', %(statement)s, true)
"""
# A new session begins with these; ours, or a pooler's, may have begun before they were set.
APPLY_SESSION_DEFAULTS = """
select set_config(
  case name when 'default_transaction_read_only' then 'transaction_read_only' else name end,
  value, true)
from (
  select distinct on (name) name, value
  from pg_db_role_setting as s
    cross join unnest(s.setconfig) as entry
    cross join lateral (
      select split_part(entry, '=', 1), substr(entry, strpos(entry, '=') + 1)
    ) as parts (name, value)
  where s.setrole in (0, (select oid from pg_roles where rolname = session_user))
    and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
  order by name, s.setrole desc, s.setdatabase desc
) as last
where name = 'search_path' or name = 'default_transaction_read_only' and value::boolean
"""
# Deferred constraints and triggers speak at the commit, which never comes.
CHECK_CONSTRAINTS = "set constraints all immediate"

# Row level security without a policy refuses no SELECT, UPDATE or DELETE: they find no row.
SELECT_HIDDEN_TABLES = """
select needed.name, needed.command
from unnest(%(tables)s::text[], %(commands)s::text[]) as needed (name, command)
where row_security_active(to_regclass(needed.name)) and not exists (
  select from pg_policy as p
  where p.polrelid = to_regclass(needed.name) and p.polpermissive
    and p.polcmd::text in ('*', needed.command)
    and (p.polroles = '{0}'
      or exists (select from unnest(p.polroles) as role where pg_has_role(role, 'usage')))
)
"""
COMMAND_NAMES = {"r": "select", "w": "update", "d": "delete"}

TOUCH_OUTBOX = "update outbox set attempts = attempts where lead_id = %(id)s"

# Groups are counted by triggers, so they tell that there is something to see.
SELECT_VISIBLE_PRODUCTS = """
select exists (select from products where published), exists (select from product_groups)
"""


class _RecordingConnection:
    """A connection that remembers its last statement: a server tells of a parameter by number."""

    def __init__(self, connection: "Connection[Any]") -> None:
        self._connection = connection
        self.statement = ""

    def execute(self, statement: str, *values: Any) -> Any:
        self.statement = statement
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def parameter_name(self, number: int) -> str | None:
        """psycopg numbers names in the order in which they first appear."""
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", self.statement)))
        return names[number - 1] if 0 < number <= len(names) else None


class SilentFailure(Exception):
    """The database raised nothing, and yet did not do what it was asked; the text says what."""


def store_fault(
    run: RunQuery, now: datetime, *, patience_s: float = STATEMENT_TIMEOUT_S
) -> str | None:
    """Why a lead would not be stored with its mails; None when it would.

    Names SQLSTATE, table, column and constraint, never a value. Raises DatabaseDown.
    """
    return _run_rolled_back(run, lambda connection: _store_leads(connection, now), patience_s)


def outbox_fault(
    run: RunQuery, now: datetime, *, patience_s: float = STATEMENT_TIMEOUT_S
) -> str | None:
    """Why the mails of a stored lead would not be sent; None when they would.

    Where no lead can be stored either, that is the fault, and told here too. Raises DatabaseDown.
    """
    return _run_rolled_back(run, lambda connection: _send_emails(connection, now), patience_s)


def products_fault(run: RunQuery, *, patience_s: float = STATEMENT_TIMEOUT_S) -> str | None:
    """Why the catalogue cannot be read; None when it can. Raises DatabaseDown."""
    return _run_rolled_back(run, _search_products, patience_s)


def find_faults(
    run: RunQuery, now: datetime, *, patience_s: float = STATEMENT_TIMEOUT_S
) -> dict[str, str]:
    """All three, by the rule of lib/incidents/rules.py that a fault breaks. Raises DatabaseDown.

    Where no lead can be stored, its mails are no fault of their own.
    """
    store = store_fault(run, now, patience_s=patience_s)
    outbox = None if store else outbox_fault(run, now, patience_s=patience_s)
    catalogue = products_fault(run, patience_s=patience_s)
    found = {"store_refused": store, "outbox_refused": outbox, "products_refused": catalogue}
    return {rule: fault for rule, fault in found.items() if fault is not None}


# ---------------------------------------------------------------- the statements


def _store_leads(connection: "Connection[Any]", now: datetime) -> None:
    """Leads of every kind, one twice and corrected, and one kept as spam."""
    _require_visible(connection, leads="rw", outbox="r", erasure_tombstones="r")
    made = _sample_leads(now)
    for lead in made:
        _store_lead(connection, lead, now)
        seen = canary.find(_runner_on(connection), lead.id)
        if not seen.stored or not seen.emails:
            what = "outbox" if seen.stored else "leads"
            raise SilentFailure(
                f'a row written to table "{what}" is not there (a trigger or a policy?)'
            )
    _store_lead(connection, made[0], now)
    changed = made[0].submission._replace(city="Medan", chair_count=2)
    later = now + timedelta(seconds=1)
    _store_lead(connection, _sample_lead(changed, later, "id"), later)
    _store_lead(connection, _sample_lead(changed, later, "id", key=str(uuid4())), later)
    repository.insert_spam(
        _runner_on(connection), _sample_lead(_longest_submission(now), now, "en"), "rehearsal", ()
    )
    connection.execute(CHECK_CONSTRAINTS)


def _send_emails(connection: "Connection[Any]", now: datetime) -> None:
    """Claim the mails of a lead; have one sent, one delayed and given up; enter the journal."""
    _require_visible(connection, leads="rw", outbox="rw")
    run, lead = _runner_on(connection), _sample_leads(now)[0]
    _store_lead(connection, lead, LONG_AGO)
    if not connection.execute(TOUCH_OUTBOX, {"id": str(lead.id)}).rowcount:
        raise SilentFailure('a row of table "outbox" cannot be changed (a trigger or a policy?)')
    claimed = outbox.claim(run, LONG_AGO, 2)
    delayed = TransientMailError("rehearsal", may_be_sent=False)
    for mail, answer in zip(claimed, (None, delayed), strict=False):
        _deliver(run, mail, answer)
    for mail in claimed[1:]:
        _deliver(run, mail, PermanentMailError("rehearsal"))
    connection.execute(queue.SELECT_UNJOURNALED)
    connection.execute(queue.MARK_JOURNALED, {"ids": [str(lead.id)]})
    connection.execute(CHECK_CONSTRAINTS)


def _deliver(run: RunQuery, mail: outbox.ClaimedEmail, answer: Exception | None) -> None:
    transport = outbox.Transport(_fake_sender(answer))
    outbox.Delivery(run, transport, lambda: LONG_AGO).send([mail])


def _search_products(connection: "Connection[Any]") -> None:
    """A search with facets, the bare list's beginning, and one product."""
    tables = ("products", "product_groups", "brands", "categories", "functions", "catalogue_state",
              "synonyms", "search_words")  # fmt: skip
    _require_visible(connection, **dict.fromkeys(tables, "r"))
    run = _runner_on(connection)
    product_catalogue.find(
        run, Query(q="shampoo", sort="relevance", limit=1, facets=FILTERS, total=True)
    )
    for sort in ("name", "-name", "newest"):
        product_catalogue.find(run, Query(sort=sort, limit=1, facets=FILTERS, total=True))
    product_catalogue.find(run, Query(slug="shampoo"))
    seen, counted = connection.execute(SELECT_VISIBLE_PRODUCTS).fetchone() or (False, False)
    if counted and not seen:
        raise SilentFailure('no row of table "products" can be read (a policy?)')


def _store_lead(connection: "Connection[Any]", lead: Lead, mailed_at: datetime) -> None:
    desk = Recipients("rehearsal@alfabeauty.co.id", (CANARY_MAILBOX,))
    keys = (bytes(32),)
    repository.insert(
        _runner_on(connection), lead, desk, now=mailed_at, deliver_now=False, erasure_keys=keys
    )


def _runner_on(connection: "Connection[Any]") -> RunQuery:
    """`run` inside this transaction."""
    return lambda work, **_bounds: work(connection)


def _fake_sender(answer: Exception | None) -> Callable[..., str]:
    """Sends nothing, and answers so."""

    def send(*_: object, **__: object) -> str:
        if answer is not None:
            raise answer
        return "rehearsal"

    return send


# ---------------------------------------------------------------- synthetic leads


def _sample_leads(now: datetime) -> list[Lead]:
    """One of every salon type: the fullest that is taken, the shortest, and between."""
    fullest = _longest_submission(now)
    short = Submission("AB", "CD", "+6281200000000", "EF", "SALON", consent=True)
    said = f"Rehearsal {uuid4()}"
    shorts = [
        short._replace(salon_type=one, message=f"{said} {number}", business_name=one)
        for number, one in enumerate(("SALON", "BARBER", "BRIDAL", "UNISEX", "UNISEX"))
    ]
    shorts[0] = shorts[0]._replace(message=None, business_name=said)
    made = [_sample_lead(fullest, now, "id"), *(_sample_lead(one, now, "en") for one in shorts)]
    made[1] = made[1]._replace(ip_address=None, user_agent=None)
    made[2] = made[2]._replace(arrival="queue")
    made[3] = made[3]._replace(arrival="mail", ip_address="2001:db8::1")
    return made


def _longest_submission(now: datetime) -> Submission:
    """Every field, as long as the contract takes it."""
    said = f"Rehearsal {uuid4()} of {now:%Y-%m-%d} "
    link = "https://alfabeauty.co.id/?utm_source="
    return Submission(
        business_name="Rehearsal ".ljust(255, "x"),
        contact_name="Rehearsal ".ljust(255, "x"),
        phone_whatsapp="+628120000000000",
        city="Jakarta ".ljust(80, "x"),
        salon_type="OTHER",
        consent=True,
        email=CANARY_MAILBOX,
        chair_count=10_000,
        specialization="x" * 200,
        current_brands_used="x" * 200,
        monthly_spend_range="x" * 80,
        message=said.ljust(2000, "x"),
        page_url_initial=link.ljust(2048, "x"),
        page_url_current=link.ljust(2048, "x"),
        referrer=link.ljust(2048, "x"),
        utm_source="x" * 200,
        utm_medium="x" * 200,
        utm_campaign="x" * 200,
        utm_term="x" * 200,
        utm_content="x" * 200,
        locale="id",
        consent_version="x" * 80,
    )


def _sample_lead(
    submission: Submission, now: datetime, locale: str, key: str | None = None
) -> Lead:
    """A canary: were it ever kept, it would be counted nowhere and mailed to a test mailbox."""
    return Lead.from_submission(
        submission,
        key=key,
        locale=locale,
        now=now,
        ip_address="192.0.2.1",
        user_agent="rehearsal".ljust(255, "x"),
        canary=True,
    )


# ---------------------------------------------------------------- always rolled back


def _run_rolled_back(
    run: RunQuery, work: Callable[["Connection[Any]"], None], patience_s: float
) -> str | None:
    def ask(connection: "Connection[Any]") -> str | None:
        import psycopg  # which whoever has a connection has loaded

        noting: Any = _RecordingConnection(connection)
        try:
            with _rolled_back(connection, patience_s):
                work(noting)
        except psycopg.Error as fault:
            if fault.sqlstate is None or connection.closed:
                raise  # said by no server, or by one on its way out
            connection.close()  # a session may stay so when the server no longer is
            return describe_error(fault, noting.parameter_name)
        except SilentFailure as refusal:
            return str(refusal)
        except (ErasedSubject, Problem, RuntimeError):
            return 'a row written to table "leads" is not there (a trigger, rule or constraint?)'
        return None

    budget_s = max(3.5, 3 * patience_s)
    said: str | None = run(ask, budget_s=budget_s)
    for _ in range(MAX_SESSIONS):
        if said is None or not said.endswith(f"({READ_ONLY_SQLSTATE})"):
            break
        said = run(ask, budget_s=budget_s)
    return said


@contextmanager
def _rolled_back(connection: "Connection[Any]", patience_s: float) -> Iterator[None]:
    patience_ms = int(patience_s * 1000)
    with connection.transaction(force_rollback=True):
        values = {"lock": f"{patience_ms}ms", "statement": f"{patience_ms + 100}ms"}
        connection.execute(SET_TIMEOUTS, values)
        connection.execute(APPLY_SESSION_DEFAULTS)
        yield


def _require_visible(connection: "Connection[Any]", **needed: str) -> None:
    """See that row level security hides none of these tables. needed: table -> commands."""
    pairs = [(table, command) for table, commands in needed.items() for command in commands]
    values = {"tables": [one for one, _ in pairs], "commands": [one for _, one in pairs]}
    hidden = connection.execute(SELECT_HIDDEN_TABLES, values).fetchall()
    if hidden:
        raise SilentFailure("; ".join(_describe_hidden(hidden)))


def _describe_hidden(rows: Sequence[Any]) -> Iterator[str]:
    for table, command in rows:
        yield f'row level security hides every row of table "{table}" from {COMMAND_NAMES[command]}'


# ---------------------------------------------------------------- in words

# What a server says under these names things and quotes no value, unless a function raised it.
QUOTABLE_SQLSTATE_CLASSES = ("0A", "23", "25", "40", "42", "53", "54", "55", "57", "2F", "3D", "3F")
SQLSTATE_MEANINGS = {
    READ_ONLY_SQLSTATE: "the database is read-only",
    "42501": "a right or a policy is missing",
    "53100": "the disk is full",
    "55P03": "a table is locked",
    "57014": "it takes too long",
    "P0001": "a trigger or function refuses it",
}
DIAGNOSTIC_FIELDS = ("schema_name", "table_name", "column_name", "datatype_name", "constraint_name")


def is_server_error(fault: BaseException | None) -> "TypeGuard[psycopg.Error]":
    """Whether a server said it, and so says why."""
    return getattr(fault, "sqlstate", None) is not None and isinstance(fault, server_errors())


def server_errors() -> "tuple[type[psycopg.Error], ...]":
    """What a statement of ours fails with when a server refuses it."""
    import psycopg

    return (psycopg.Error,)


def describe_error(
    fault: "psycopg.Error", parameter: Callable[[int], str | None] = lambda _: None
) -> str:
    """A statement's failure for a person: what it means, the names a server gives, the SQLSTATE.

    parameter: the name behind a statement's parameter.
    """
    diag, code = fault.diag, fault.sqlstate or "?"
    raised = diag.source_function == "exec_stmt_raise"
    said = (
        (diag.message_primary or "") if code[:2] in QUOTABLE_SQLSTATE_CLASSES and not raised else ""
    )
    parts = [
        part
        for part in (SQLSTATE_MEANINGS.get(code, "" if said else _error_name(fault)), said)
        if part
    ]
    if code == "0A000" and not raised and diag.message_hint:
        parts.append(diag.message_hint)  # of a rule, which the message does not name
    text = ": ".join(parts)
    names = [
        f"{name.removesuffix('_name')} {value}"
        for name in DIAGNOSTIC_FIELDS
        if (value := getattr(diag, name)) and value not in text and value != "public"
    ]
    if (place := re.search(r"parameter \$(\d+)", diag.context or "")) is not None:
        names.append(f"value of {parameter(int(place[1]))}")
    if (function := re.search(r"function ([\w.\"]+)\(", diag.context or "")) is not None:
        names.append(f"in function {function[1]}")
    return ", ".join([text, *names]) + f" ({code})"


def _error_name(fault: Exception) -> str:
    """psycopg names its errors as the standard does: `InvalidTextRepresentation`."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(fault).__name__).lower()
