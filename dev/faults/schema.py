"""The schema as a bad deploy leaves it: a column renamed, a right revoked, a trigger that fails.

Each fault is DDL under the running platform, with the DDL that takes it back. Postgres goes on
answering, so nothing here looks like a database that is down.
"""

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from dev.vendors.fault_switch import InvalidFault

# DDL waits for every statement on its table, and every other one waits for it.
LOCK_TIMEOUT_S = 1
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Change:
    """`{table}`, `{column}` and `{constraint}` are those of TABLES; each part is run as one
    transaction. The way back works whether the change was made or not."""

    apply: str
    undo: str


@dataclass(frozen=True, slots=True)
class Table:
    """column: one that every insert names; constraint: one that no insert names."""

    column: str
    constraint: str
    constraint_is: str


TABLES = {
    "leads": Table(
        "city",
        "leads_once",
        "exclude using gist (identity with =, tstzrange(created_at, same_until) with &&)",
    ),
    "outbox": Table("subject", "outbox_lead_id_kind_key", "unique (lead_id, kind)"),
}

_TRIGGER = """
create or replace function {table}_broken() returns trigger language plpgsql as $$
begin {raise}; return new; end $$;
create trigger broken before insert on {table} for each row execute function {table}_broken()
"""
_NO_TRIGGER = """
drop trigger if exists broken on {table};
drop function if exists {table}_broken()
"""
_IF = "do $$ begin if {condition} then {statement}; end if; end $$"


def _only(condition: str, statement: str) -> str:
    return _IF.replace("{condition}", condition).replace("{statement}", statement)


def _trigger(raised: str) -> Change:
    return Change(_TRIGGER.replace("{raise}", raised), _NO_TRIGGER)


_HAS_COLUMN = (
    "exists (select from pg_attribute where attrelid = '{table}'::regclass and attname = '%s'"
    " and not attisdropped)"
)

CHANGES: dict[str, Change] = {
    "renamed_column": Change(
        "alter table {table} rename column {column} to {column}_renamed",
        _only(
            _HAS_COLUMN % "{column}_renamed",
            "alter table {table} rename column {column}_renamed to {column}",
        ),
    ),
    "missing_table": Change(
        "alter table {table} rename to {table}_renamed",
        "alter table if exists {table}_renamed rename to {table}",
    ),
    "missing_constraint": Change(
        "alter table {table} drop constraint {constraint}",
        _only(
            "not exists (select from pg_constraint where conname = '{constraint}'"
            " and conrelid = '{table}'::regclass)",
            "alter table {table} add constraint {constraint} {constraint_is}",
        ),
    ),
    "not_null": Change(
        "alter table {table} add column added text not null default '';"
        " alter table {table} alter column added drop default",
        "alter table {table} drop column if exists added",
    ),
    "check": Change(
        "alter table {table} add constraint broken check (false) not valid",
        "alter table {table} drop constraint if exists broken",
    ),
    "failing_trigger": _trigger("raise exception 'broken'"),
    "trigger_of_a_data_error": _trigger("raise exception 'broken' using errcode = '22012'"),
    "trigger_of_a_missing_table": _trigger("perform 1 from no_such_table"),
    "revoked_insert": Change(
        "revoke insert on {table} from {role}", "grant insert on {table} to {role}"
    ),
    "revoked_select": Change(
        "revoke select on {table} from {role}", "grant select on {table} to {role}"
    ),
    "read_only_rights": Change(
        "revoke insert, update, delete on {table} from {role}",
        "grant insert, update, delete on {table} to {role}",
    ),
    "dropped_policy": Change(
        "drop policy alfa_app_all on {table}",
        _only(
            "not exists (select from pg_policy where polname = 'alfa_app_all'"
            " and polrelid = '{table}'::regclass)",
            "create policy alfa_app_all on {table} to {role} using (true) with check (true)",
        ),
    ),
}


class Schema:
    """One fault at a time, by a superuser's connection past every proxy.

    role: whose rights and policies are taken away.
    """

    def __init__(self, admin_dsn: str, role: str) -> None:
        self._dsn = admin_dsn
        self._role = role
        self._lock = threading.Lock()
        self._undo: str | None = None

    def switch(self, mode: str = "ok", **options: Any) -> None:
        table = options.pop("table", None)
        if options or (mode != "ok" and (mode not in CHANGES or table not in TABLES)):
            raise InvalidFault(f"{mode} of {table} {options}: the schema knows no such fault")
        self.ok()
        if mode == "ok":
            return
        with self._lock:
            # Known before it is made: whatever interrupts it, `ok` takes it back.
            self._undo = self._written(CHANGES[mode].undo, table)
            self._run(self._written(CHANGES[mode].apply, table))

    def ok(self) -> None:
        with self._lock:
            if self._undo is not None:
                self._run(self._undo)
                self._undo = None

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self.ok()

    def _written(self, text: str, table: str) -> str:
        known = TABLES[table]
        for name, value in (
            ("table", table),
            ("column", known.column),
            ("constraint_is", known.constraint_is),
            ("constraint", known.constraint),
            ("role", self._role),
        ):
            text = text.replace(f"{{{name}}}", value)
        return text

    def _run(self, statements: str) -> None:
        """One transaction. Again while somebody holds the table: who waits for a lock holds up
        everybody behind."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                with psycopg.connect(self._dsn) as connection:
                    connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'".encode())
                    connection.execute(statements.encode())
                return
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
