"""Every SQL statement of the bundle against the migrated schema, and who may touch that schema."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import DictRow

import lib
from dev.platform.local_platform import Platform
from lib.privacy import retention
from tests.conftest import ROOT, both_majors

type Rows = psycopg.Connection[DictRow]

pytestmark = both_majors

BEGINNING = re.compile(r"\s*(with|insert|select|update|delete)\s", re.IGNORECASE)


def statements() -> Iterator[tuple[str, str]]:
    """(where it stands, text) of every text constant in capitals that begins like SQL."""
    for module in pkgutil.walk_packages(lib.__path__, "lib."):
        for name, value in sorted(vars(importlib.import_module(module.name)).items()):
            if not (isinstance(value, str) and name.isupper() and BEGINNING.match(value)):
                continue
            if "{table}" not in value:  # a template of retention, filled in below
                yield f"{module.name}.{name}", value
    for rule in retention.rules(leads_days=1095):
        for number, statement in enumerate(rule.statements()):
            yield f"lib.privacy.retention.{rule.name}.{number}", statement


STATEMENTS = dict(statements())


def numbered(statement: str) -> str:
    """psycopg's `%(name)s` as the server's `$1`, one number a name; `%%` as `%`.

    Any other `%` is a fault of the statement: psycopg would refuse it when it is run.
    """
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        assert match["name"], f"{match[0]!r} is no named parameter"
        return f"${numbers.setdefault(match['name'], len(numbers) + 1)}"

    return re.sub(r"%\((?P<name>\w+)\)s|%%|%.?", number, statement, flags=re.DOTALL)


def test_there_are_statements_to_check() -> None:
    assert {"lib.leads.repository.ACCEPT_LEAD", "lib.leads.outbox.CLAIM_DUE"} <= set(STATEMENTS)


def test_parameters_are_numbered_by_name() -> None:
    assert numbered("%(a)s, %(b)s, %(a)s like '%%x'") == "$1, $2, $1 like '%x'"


@pytest.mark.parametrize("where", STATEMENTS)
def test_the_statement_fits_the_schema(admin: Rows, where: str) -> None:
    admin.execute(f"prepare checked as {numbered(STATEMENTS[where])}".encode())
    admin.execute("deallocate checked")


RELATIONS = """
select c.oid, c.relname as name, c.relkind as kind, c.relrowsecurity as secured
from pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  and not exists (
    select from pg_depend d
    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
  )
"""

TABLE_RIGHTS = (
    "select", "insert", "update", "delete", "truncate", "references", "trigger",
)  # fmt: skip


def table_rights(admin: Rows, role: str) -> dict[str, set[str]]:
    """What a role, by itself, its groups or PUBLIC, may do with each table or view of ours."""
    rights_by_table: dict[str, set[str]] = {}
    new_in_17 = ("maintain",) if admin.info.server_version >= 170000 else ()
    for right in (*TABLE_RIGHTS, *new_in_17):
        rows = admin.execute(
            f"select name from ({RELATIONS}) as ours where kind <> 'S'"
            " and has_table_privilege(%(role)s, oid, %(right)s)",
            {"role": role, "right": right},
        )
        for row in rows:
            rights_by_table.setdefault(row["name"], set()).add(right)
    return rights_by_table


def test_every_table_has_row_level_security_on(admin: Rows) -> None:
    tables = admin.execute(f"select * from ({RELATIONS}) as ours where kind in ('r', 'p')")
    secured = {row["name"]: row["secured"] for row in tables}
    assert {"leads", "outbox", "spam"} <= set(secured)
    assert all(secured.values()), f"supabase would serve these by REST: {secured}"


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_the_rest_roles_may_do_nothing_with_our_tables(admin: Rows, role: str) -> None:
    assert table_rights(admin, role) == {}
    columns = admin.execute(
        f"select name from ({RELATIONS}) as ours where kind <> 'S'"
        " and has_any_column_privilege(%s, oid, 'select, insert, update, references')",
        [role],
    ).fetchall()
    assert columns == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_the_rest_roles_may_do_nothing_with_our_sequences_or_functions(
    admin: Rows, role: str
) -> None:
    sequences = admin.execute(
        # case: the planner may otherwise ask has_sequence_privilege of a table.
        f"select name from ({RELATIONS}) as ours where case when kind = 'S'"
        " then has_sequence_privilege(%s, oid, 'usage, select, update') end",
        [role],
    ).fetchall()
    assert sequences == []
    functions = admin.execute(
        """
        select p.oid::regprocedure::text as name
        from pg_proc p
        where p.pronamespace = 'public'::regnamespace
          and has_function_privilege(%s, p.oid, 'execute')
          and not exists (
            select from pg_depend d
            where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
          )
        """,
        [role],
    ).fetchall()
    assert functions == [], "a new function is everybody's until its migration revokes it"


def test_the_functions_role_reads_and_writes_rows_and_no_more(admin: Rows) -> None:
    rows = {"select", "insert", "update", "delete"}
    rights = table_rights(admin, "alfa_app")
    assert {name: more for name, granted in rights.items() if (more := granted - rows)} == {}


@pytest.mark.parametrize("role", ["alfa_app", "alfa_api_a"])
def test_the_functions_roles_have_no_power_over_the_server(admin: Rows, role: str) -> None:
    powers = admin.execute(
        """
        select rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication,
          has_schema_privilege(rolname, 'public', 'create') as creates_in_public,
          exists (select from pg_class c where c.relowner = r.oid) as owns_a_table
        from pg_roles r where rolname = %s
        """,
        [role],
    ).fetchone()
    assert powers is not None
    assert not any(powers.values()), powers


def test_the_functions_log_in_as_a_member_and_not_as_the_owner(
    admin: Rows, platform: Platform
) -> None:
    with psycopg.connect(platform.database_url) as connection:
        row = connection.execute(
            "select current_user, pg_has_role(current_user, 'alfa_app', 'member')"
        ).fetchone()
    assert row == ("alfa_api_a", True)


STATEMENT = re.compile(
    r"\s*(with\s+\w+\s+as\b|insert\s+into\b|select\s|update\s+\w+.*\sset\s|delete\s+from\b)",
    re.DOTALL,
)


def test_sql_is_a_module_constant_in_capitals_and_never_built() -> None:
    """Another test prepares each constant on the migrated schema."""
    built = []
    for file in sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "api").rglob("*.py")]):
        module = ast.parse(file.read_text())
        constants = {
            id(node.value)
            for node in module.body
            if isinstance(node, ast.Assign)
            and all(isinstance(name, ast.Name) and name.id.isupper() for name in node.targets)
        }
        built += [
            f"{file.relative_to(ROOT)}:{node.lineno}: {node.value.strip()[:40]}…"
            for node in ast.walk(module)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if id(node) not in constants and is_statement(node.value)
        ]
    assert not built, "\n".join(built)


def is_statement(text: str) -> bool:
    """SQL is written in one case; a docstring begins with one capital."""
    first_word = (text.split(maxsplit=1) or [""])[0]
    is_one_case = first_word in (first_word.lower(), first_word.upper())
    return is_one_case and bool(STATEMENT.match(text.lower()))
