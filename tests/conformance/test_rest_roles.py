"""What Supabase's REST roles meet at our schema: they log in, try everything, and get nothing.

tests/test_sql.py asks the server which rights there are; here each is tried.
"""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from psycopg.sql import SQL, Identifier

from dev.platform.local_platform import Platform
from tests.conftest import both_majors

type Session = psycopg.Connection[DictRow]

pytestmark = both_majors

RELATIONS = """
select c.relname as name from pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
  and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
"""
FUNCTIONS = """
select p.proname as name, p.prokind = 'p' as is_procedure,
  array(select format('null::%s', format_type(argument, null))
    from unnest(p.proargtypes) as argument) as arguments
from pg_proc p
where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype
  and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
"""


@pytest.fixture(params=["anon", "authenticated"])
def session(request: pytest.FixtureRequest, platform: Platform) -> Iterator[Session]:
    """A session of the role, as PostgREST has one."""
    with psycopg.connect(
        platform.superuser_database_url, autocommit=True, row_factory=dict_row
    ) as connection:
        connection.execute(SQL("set session authorization {}").format(Identifier(request.param)))
        yield connection


def is_refused(session: Session, statement: str) -> bool:
    """Whether the server says that the right is missing; what it did not refuse is undone."""
    try:
        with session.transaction(force_rollback=True):
            session.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_no_table_is_read_or_written(session: Session) -> None:
    names = [row["name"] for row in session.execute(RELATIONS)]
    assert {"leads", "outbox", "spam", "erasure_tombstones"} <= set(names)
    attempts = [
        statement
        for name in names
        for statement in (
            f'select from public."{name}" limit 1',
            f'select count(*) from public."{name}"',
            f'insert into public."{name}" default values',
            f'delete from public."{name}"',
            f'truncate public."{name}"',
        )
    ]
    assert [each for each in attempts if not is_refused(session, each)] == []


def test_no_function_of_ours_is_executed(session: Session) -> None:
    rows = session.execute(FUNCTIONS).fetchall()
    assert "accept_lead" in {row["name"] for row in rows}
    attempts = [call(row["name"], row["arguments"], row["is_procedure"]) for row in rows]
    assert [each for each in attempts if not is_refused(session, each)] == []


def call(name: str, arguments: list[str], is_procedure: bool) -> str:
    """A call that is run: of a strict function of NULL the planner knows the result without it."""
    if is_procedure:
        return f'call public."{name}"({", ".join(arguments)})'
    columns = [f"a{number}" for number in range(len(arguments))]
    values = ", ".join(
        f"{value} as {column}" for value, column in zip(arguments, columns, strict=True)
    )
    return f'select public."{name}"({", ".join(columns)}) from (select {values} offset 0) as given'


def test_nothing_is_made_in_our_schema(session: Session) -> None:
    for statement in (
        "create table public.theirs (id int)",
        "create function public.theirs() returns int language sql as 'select 1'",
        "alter table public.leads disable row level security",
        "set role alfa_app",
    ):
        assert is_refused(session, statement), statement


def test_a_right_that_is_granted_is_noticed(session: Session, platform: Platform) -> None:
    """The attempts above would succeed: a table and a function that are open to all are used."""
    with psycopg.connect(platform.superuser_database_url, autocommit=True) as owner:
        owner.execute("create table public.open_to_all (id int)")
        owner.execute("grant all on public.open_to_all to public")
        owner.execute("create function public.open_to_all() returns int return 1")
        owner.execute("grant execute on function public.open_to_all to public")
        try:
            assert not is_refused(session, "select count(*) from public.open_to_all")
            assert not is_refused(session, "select public.open_to_all()")
        finally:
            owner.execute("drop function public.open_to_all")
            owner.execute("drop table public.open_to_all")
