"""The statement check: would Postgres store a lead, send its mails and list the products?

It runs the statements the functions run, with synthetic leads, in a transaction that is always
rolled back. EXPLAIN would find missing columns and rights only; NOT NULL, CHECK, triggers,
policies, rules and a read-only server show when a statement runs. Time limits are `set local`, so
it works through a transaction pooler. The rule a newcomer would break: a fault names tables,
columns and constraints, never a value.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from lib.interfaces import RunQuery
from lib.leads import canary, outbox, queue, repository
from lib.leads.lead import CANARY_MAILBOX, Lead, Recipients
from lib.monitoring import sample_leads, server_errors
from lib.problems import ErasedSubject, PermanentMailError, Problem, TransientMailError
from lib.products import catalogue
from lib.products.query import FILTERS, Query

if TYPE_CHECKING:
    from psycopg import Connection


STATEMENT_TIMEOUT_S = 0.8  # for locks, or to run: below deep health's second
# No real mail was due then: only the synthetic ones are claimed.
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

MAX_SESSIONS = 8  # that an instance may keep open

SET_TIMEOUTS = """
select set_config('lock_timeout', %(lock)s, true),
  set_config('statement_timeout', %(statement)s, true)
"""
# A new session starts with these defaults; ours, or a pooler's, may be older than they are.
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
# Deferred constraints and triggers run at the commit, which never comes.
CHECK_CONSTRAINTS = "set constraints all immediate"

# Without a policy, row level security refuses no SELECT, UPDATE or DELETE: they find no row.
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

# product_groups is filled by triggers: it shows that there are products to see.
SELECT_VISIBLE_PRODUCTS = """
select exists (select from products where published), exists (select from product_groups)
"""


class SilentFailure(Exception):
    """The database raised no error, and yet did not do what it was asked; the text says what."""


class Check(NamedTuple):
    """consequence: of a fault. tables: whose rows must be visible, and to which commands."""

    consequence: str
    tables: Mapping[str, str]
    run_statements: Callable[["Connection[Any]", datetime], None]


def find_faults(
    run: RunQuery, now: datetime, *, timeout_s: float = STATEMENT_TIMEOUT_S
) -> dict[str, str]:
    """Alert rule -> fault, of all CHECKS. Raises DatabaseDown.

    Where no lead can be stored, its mails are no fault of their own.
    """
    faults: dict[str, str] = {}
    for rule in CHECKS:
        if rule == "outbox_refused" and "store_refused" in faults:
            continue
        if fault := find_fault(run, rule, now, timeout_s=timeout_s):
            faults[rule] = fault
    return faults


def store_fault(run: RunQuery, now: datetime) -> str | None:
    """Why a lead would not be stored with its mails. Raises DatabaseDown."""
    return find_fault(run, "store_refused", now)


def find_fault(
    run: RunQuery, rule: str, now: datetime, *, timeout_s: float = STATEMENT_TIMEOUT_S
) -> str | None:
    """What refuses the statements of one of CHECKS; None when nothing does. Raises DatabaseDown."""
    check = CHECKS[rule]

    def attempt(connection: "Connection[Any]") -> str | None:
        return _run_rolled_back(connection, check, now, timeout_s)

    budget_s = max(3.5, 3 * timeout_s)
    fault: str | None = run(attempt, budget_s=budget_s)
    for _ in range(MAX_SESSIONS):
        # A session may stay read-only after the server no longer is: it was closed, take another.
        if fault is None or not fault.endswith(f"({server_errors.READ_ONLY_SQLSTATE})"):
            break
        fault = run(attempt, budget_s=budget_s)
    return fault


def _run_rolled_back(
    connection: "Connection[Any]", check: Check, now: datetime, timeout_s: float
) -> str | None:
    import psycopg  # loaded already by whoever has a connection

    recording: Any = _RecordingConnection(connection)
    timeout_ms = int(timeout_s * 1000)
    timeouts = {"lock": f"{timeout_ms}ms", "statement": f"{timeout_ms + 100}ms"}
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(SET_TIMEOUTS, timeouts)
            connection.execute(APPLY_SESSION_DEFAULTS)
            _require_visible(connection, check.tables)
            check.run_statements(recording, now)
            connection.execute(CHECK_CONSTRAINTS)
    except psycopg.Error as error:
        if error.sqlstate is None or connection.closed:
            raise  # from no server, or from one that is shutting down
        connection.close()
        return server_errors.describe_error(error, recording.parameter_name)
    except SilentFailure as failure:
        connection.close()  # the session's plans may be of the fault
        return str(failure)
    except (ErasedSubject, Problem, RuntimeError):
        connection.close()
        return 'a row written to table "leads" is not there (a trigger, rule or constraint?)'
    return None


def _require_visible(connection: "Connection[Any]", tables: Mapping[str, str]) -> None:
    """Raises SilentFailure where row level security hides every row from a command."""
    pairs = [(table, command) for table, commands in tables.items() for command in commands]
    values = {
        "tables": [table for table, _ in pairs],
        "commands": [command for _, command in pairs],
    }
    hidden = connection.execute(SELECT_HIDDEN_TABLES, values).fetchall()
    if hidden:
        raise SilentFailure(
            "; ".join(
                f'row level security hides every row of table "{table}" from'
                f" {COMMAND_NAMES[command]}"
                for table, command in hidden
            )
        )


class _RecordingConnection:
    """A connection that keeps its last statement: the server names a parameter by its number."""

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


# ---------------------------------------------------------------- the statements


def _store_leads(connection: "Connection[Any]", now: datetime) -> None:
    """Leads of every kind, one of them twice and corrected, and one spam."""
    leads = sample_leads.of_every_kind(now)
    for lead in leads:
        _insert(connection, lead, now)
        stored = canary.find(_runner_on(connection), lead.id)
        if not stored.stored or not stored.emails:
            table = "outbox" if stored.stored else "leads"
            raise SilentFailure(
                f'a row written to table "{table}" is not there (a trigger or a policy?)'
            )
    _insert(connection, leads[0], now)
    correction = leads[0].submission._replace(city="Medan", chair_count=2)
    later = now + timedelta(seconds=1)
    _insert(connection, sample_leads.from_submission(correction, later), later)
    _insert(connection, sample_leads.from_submission(correction, later, key=str(uuid4())), later)
    another = correction._replace(message=str(uuid4()))
    # As a visitor's lead has to meet, but of a client and in a flood of its own.
    terms = repository.Terms(uuid4().bytes, 1, 1, 1_000_000, 1, bypass_maintenance=True)
    _insert(connection, sample_leads.from_submission(another, now), now, terms)
    spam = sample_leads.from_submission(sample_leads.longest_submission(now), now)
    repository.insert_spam(_runner_on(connection), spam, "rehearsal", ())


def _send_emails(connection: "Connection[Any]", now: datetime) -> None:
    """Mails of a lead: one sent, one delayed and given up; and the journal's marks."""
    run, lead = _runner_on(connection), sample_leads.of_every_kind(now)[0]
    _insert(connection, lead, LONG_AGO)
    if not connection.execute(TOUCH_OUTBOX, {"id": str(lead.id)}).rowcount:
        raise SilentFailure('a row of table "outbox" cannot be changed (a trigger or a policy?)')
    mails = outbox.claim(run, LONG_AGO, 2)
    if len(mails) < 2:
        raise SilentFailure('a row of table "outbox" cannot be claimed (a trigger or a policy?)')
    for mail, error in (
        (mails[0], None),
        (mails[1], TransientMailError("rehearsal", may_be_sent=False)),
        (mails[1], PermanentMailError("rehearsal")),
    ):
        transport = outbox.Transport(_fake_sender(error), 1)
        outbox.Delivery(run, transport, lambda: LONG_AGO).send([mail])
    connection.execute(queue.SELECT_UNJOURNALED)
    connection.execute(queue.MARK_JOURNALED, {"ids": [str(lead.id)]})


def _search_products(connection: "Connection[Any]", _now: datetime) -> None:
    """A search with facets, the beginning of the plain list in every order, and one product."""
    run = _runner_on(connection)
    for query in (
        Query(q="shampoo", sort="relevance", limit=1, facets=FILTERS, total=True),
        *(Query(sort=s, limit=1, facets=FILTERS, total=True) for s in ("name", "-name", "newest")),
        Query(slug="shampoo"),
    ):
        catalogue.find(run, query)
    visible, expected = connection.execute(SELECT_VISIBLE_PRODUCTS).fetchone() or (False, False)
    if expected and not visible:
        raise SilentFailure('no row of table "products" can be read (a policy?)')


def _insert(
    connection: "Connection[Any]",
    lead: Lead,
    mailed_at: datetime,
    terms: repository.Terms | None = None,
) -> None:
    recipients = Recipients("rehearsal@alfabeauty.co.id", (CANARY_MAILBOX,))
    run = _runner_on(connection)
    repository.insert(
        run, lead, recipients, now=mailed_at, deliver_now=False, erasure_keys=(bytes(32),),
        terms=terms,
    )  # fmt: skip


def _runner_on(connection: "Connection[Any]") -> RunQuery:
    """A `run` inside this transaction."""
    return lambda query, **_bounds: query(connection)


def _fake_sender(error: Exception | None) -> Callable[..., str]:
    """Sends nothing; raises the error."""

    def send(*_: object, **__: object) -> str:
        if error is not None:
            raise error
        return "rehearsal"

    return send


CHECKS: Mapping[str, Check] = {
    "store_refused": Check(
        "would refuse a lead",
        {"leads": "rw", "outbox": "r", "erasure_tombstones": "r", "lead_clients": "rw",
         "maintenance_window": "r"},
        _store_leads,
    ),
    "outbox_refused": Check("would send no mail", {"leads": "rw", "outbox": "rw"}, _send_emails),
    "products_refused": Check(
        "would show no product",
        dict.fromkeys(
            ("products", "product_groups", "brands", "categories", "functions", "catalogue_state",
             "synonyms", "search_words"), "r",
        ),
        _search_products,
    ),
}  # fmt: skip
"""Alert rule -> the check whose fault breaks it."""
