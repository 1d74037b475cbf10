"""The SQL around a restore's data, in one transaction: it drops our objects before, and checks
rows and checksums after.

The schemas stay, with what other roles own in them and with their default privileges: only what
belongs to the restoring role is dropped. What depends on it (another role's view on our table) is
dropped too, and reported as a NOTICE that begins with `alfa: ` (ops/recovery/postgres.py).
"""

from collections.abc import Iterable

from psycopg import sql

from ops.recovery import postgres
from ops.recovery.manifest import Manifest

LOCK_TIMEOUT = "20s"

BEGIN_TRANSACTION = """
begin;
set local application_name = {name};
set local statement_timeout = 0;
set local lock_timeout = {lock_timeout};
set local idle_in_transaction_session_timeout = 0;
set local client_connection_check_interval = '2s';
set local client_min_messages = notice;
set local search_path = '';
"""

# Our objects in the schemas that are not part of another (an index, a serial's sequence, an
# extension's). pg_shdepend does not list objects of the first superuser, role 10.
FIND_OWN_OBJECTS = """
create temporary table alfa_ours on commit drop as
select d.classid, d.objid, what.type, what.identity
from pg_depend as d
cross join lateral pg_identify_object(d.classid, d.objid, 0) as what
left join pg_shdepend as o on o.classid = d.classid and o.objid = d.objid and o.deptype = 'o'
  and o.dbid = (select oid from pg_database where datname = current_database())
where d.refclassid = 'pg_namespace'::regclass and d.deptype = 'n'
  and d.refobjid in (select oid from pg_namespace where nspname = any ({schemas}))
  and pg_has_role(coalesce(o.refobjid, 10), 'USAGE')
  and not exists (
    select from pg_depend as e where e.classid = d.classid and e.objid = d.objid
    and e.deptype in ('e', 'i', 'a', 'P', 'S') and e.refclassid <> 'pg_namespace'::regclass);
"""

# Everything else that could be dropped along: what is missing afterwards is reported.
FIND_DEPENDENT_OBJECTS = """
create temporary table alfa_others on commit drop as
select classid, objid, pg_describe_object(classid, objid, 0)
  || coalesce(' of ' || pg_get_userbyid(owner), '') as words
from (
  select 'pg_class'::regclass::oid, oid, relowner from pg_class
  where oid >= 16384 and relkind in ('r', 'p', 'v', 'm', 'f') and relpersistence <> 't'
  union all select 'pg_proc'::regclass, oid, proowner from pg_proc where oid >= 16384
  union all select 'pg_constraint'::regclass, oid, null from pg_constraint
  where contype = 'f' and conrelid not in (select objid from alfa_ours)
  union all select 'pg_publication_rel'::regclass, oid, null from pg_publication_rel
) as other (classid, objid, owner)
where not exists (
  select from alfa_ours as o where o.classid = other.classid and o.objid = other.objid);
"""

# All locks first, in one order: what waits, waits while nothing has been done yet.
DROP_OWN_OBJECTS = """
do $drop$
declare
  names text;
  item record;
begin
  select string_agg(identity, ', ' order by identity) into names
  from alfa_ours where type = 'table';
  if names is not null then
    execute 'lock table ' || names || ' in access exclusive mode';
  end if;
  for item in
    select type, identity from alfa_ours
    order by array_position(array['view', 'materialized view', 'table', 'foreign table',
      'function', 'procedure', 'aggregate'], type), identity
  loop
    execute format('drop %s if exists %s cascade', item.type, item.identity);
  end loop;
  for item in
    select words from alfa_others where pg_describe_object(classid, objid, 0) is null
    order by words
  loop
    raise notice 'alfa: dropped with our tables: %', item.words;
  end loop;
  for item in
    select n.nspname, pg_get_userbyid(d.defaclrole) as role, g.grantee,
      case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences'
        when 'f' then 'functions' else 'types' end as kind
    from pg_default_acl as d
    join pg_namespace as n on n.oid = d.defaclnamespace
    cross join lateral (select distinct grantee from aclexplode(d.defaclacl)) as g
    where n.nspname = any ({schemas}) and pg_has_role(d.defaclrole, 'USAGE')
  loop
    execute format(
      'alter default privileges for role %I in schema %I revoke all on %s from %s',
      item.role, item.nspname, item.kind,
      case when item.grantee = 0 then 'public'
        else quote_ident(pg_get_userbyid(item.grantee)) end);
  end loop;
end
$drop$;
"""

CREATE_PREREQUISITES = """
do $create$
declare
  item record;
begin
  for item in select * from unnest({roles}) as wanted (name) loop
    if not exists (select from pg_roles where rolname = item.name) then
      execute format('create role %I nologin', item.name);
      raise notice 'alfa: made the role %, which may not log in', item.name;
    end if;
  end loop;
  for item in select * from unnest({schemas}) as wanted (name) loop
    if not exists (select from pg_namespace where nspname = item.name) then
      execute format('create schema %I', item.name);
      if item.name = 'public' then
        alter schema public owner to pg_database_owner;
      end if;
    end if;
  end loop;
  for item in select * from unnest({extensions}, {places}) as wanted (name, schema) loop
    begin
      execute format('create schema if not exists %I', item.schema);
      execute format(
        'create extension if not exists %I schema %I', item.name, item.schema);
    exception when others then
      raise notice 'alfa: could not make the extension %: %', item.name, sqlerrm;
    end;
  end loop;
end
$create$;
"""

# As of the manifest, or nothing is kept. A checksum made by another major is not held against it.
CHECK_CONTENTS = """
do $check$
declare
  item record;
  rows_now bigint;
  contents_now text;
  faults text[] := '{{}}';
begin
  for item in
    select * from unnest({names}, {rows}, {contents}) as expected (name, rows, contents)
  loop
    execute 'select count(*), coalesce(sum(hashtextextended(whole_row::text, 0)), 0)::text from '
      || item.name || ' as whole_row' into rows_now, contents_now;
    if rows_now <> item.rows then
      faults := faults || format(
        '%s: %s rows in the backup, %s restored',
        replace(item.name, '"', ''), item.rows, rows_now);
    elsif {same_major} and contents_now <> item.contents then
      faults := faults || format('%s: %s rows, contents differ',
        replace(item.name, '"', ''), item.rows);
    end if;
  end loop;
  if faults <> '{{}}' then
    raise exception '%', array_to_string(faults, '; ');
  end if;
end
$check$;
"""


def sql_before_data(
    connection: postgres.Connection, backed_up: Manifest, schemas: tuple[str, ...], name: str
) -> bytes:
    """Opens the transaction, under that application name, and makes room."""
    statements = BEGIN_TRANSACTION + FIND_OWN_OBJECTS + FIND_DEPENDENT_OBJECTS
    return (
        sql.SQL(statements + DROP_OWN_OBJECTS + CREATE_PREREQUISITES)
        .format(
            name=sql.Literal(name),
            lock_timeout=sql.Literal(LOCK_TIMEOUT),
            schemas=_text_array(schemas),
            roles=_text_array(sorted({*backed_up.grantees, "alfa_app"})),
            extensions=_text_array(backed_up.extensions),
            places=_text_array(backed_up.extensions.values()),
        )
        .as_bytes(connection)
    )


def sql_after_data(
    connection: postgres.Connection, backed_up: Manifest, tables: list[str], text_formats: str
) -> bytes:
    """Fails unless `tables` hold what the manifest says."""
    expected = [backed_up.tables[name] for name in tables]
    same_major = connection.info.server_version // 10_000 == backed_up.server_version // 10_000
    names = [sql.Identifier(*name.split(".", 1)).as_string(connection) for name in tables]
    check = sql.SQL(CHECK_CONTENTS).format(
        names=_text_array(names),
        rows=sql.Literal([rows for rows, _ in expected]) + sql.SQL("::bigint[]"),
        contents=_text_array(contents for _, contents in expected),
        same_major=sql.Literal(same_major),
    )
    return text_formats.encode() + b";\n" + check.as_bytes(connection)


def _text_array(values: Iterable[str]) -> sql.Composed:
    return sql.Literal(list(values)) + sql.SQL("::text[]")
