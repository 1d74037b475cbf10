"""Makes a fresh server what a fresh Supabase project is, as far as this project can meet it.

After what Supabase publishes (github.com/supabase/postgres, migrations/db): `supabase_admin` is
the superuser that made the server; `postgres`, which owns the database and what we make in it, is
none; the REST API's roles hold rights on every new table of `public` by both roles' default
privileges. It is done in template1, so every database made later has it.
"""

import psycopg
from psycopg import sql

SUPERUSER = "supabase_admin"
OWNER = "postgres"

# Supabase's own limit for roles that have none: pg_dump and pg_restore lift it, nothing else does.
STATEMENT_TIMEOUT = "2min"

IS_MADE = "select exists (select from pg_roles where rolname = 'authenticator')"

ROLES = """
create role postgres superuser createdb createrole login replication bypassrls;
create role anon nologin;
create role authenticated nologin;
create role service_role nologin bypassrls;
create role authenticator noinherit login;
create role supabase_auth_admin noinherit createrole login;
create role supabase_storage_admin noinherit createrole login;
create role supabase_replication_admin login replication;
create role supabase_read_only_user login bypassrls;
create role dashboard_user createdb createrole replication;
grant anon, authenticated, service_role to authenticator, postgres;
grant supabase_auth_admin, supabase_storage_admin to postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
grant pg_read_all_data to supabase_read_only_user;
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role supabase_admin set search_path to "$user", public, auth, extensions;
alter role postgres set search_path to "$user", public, extensions;
"""

# Supabase's extension supautils lets `postgres` set this one, though it is no superuser.
REPLICA = "grant set on parameter session_replication_role to postgres"

# As `postgres`, which is a superuser for as long as this takes.
AS_OWNER = """
create publication supabase_realtime;

create schema extensions;
create extension pgcrypto with schema extensions;
create extension pg_stat_statements with schema extensions;
grant usage on schema extensions to anon, authenticated, service_role;
grant all on schema extensions to dashboard_user;

grant usage on schema public to postgres, anon, authenticated, service_role;
alter default privileges in schema public
  grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges in schema public
  grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges in schema public
  grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant all on sequences to postgres, anon, authenticated, service_role;

create schema auth authorization supabase_admin;
create table auth.users (
  id uuid primary key, email text unique, encrypted_password text, created_at timestamptz
);
create table auth.schema_migrations (version text primary key);
alter table auth.users owner to supabase_auth_admin;
alter table auth.schema_migrations owner to supabase_auth_admin;
create function auth.uid() returns uuid language sql stable as
  $$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
create function auth.role() returns text language sql stable as
  $$ select nullif(current_setting('request.jwt.claim.role', true), '') $$;
grant usage on schema auth to anon, authenticated, service_role;
grant all on schema auth to supabase_auth_admin, dashboard_user;

create schema storage authorization supabase_admin;
create table storage.buckets (id text primary key, name text not null, owner uuid);
create table storage.objects (
  id uuid primary key default gen_random_uuid(), bucket_id text references storage.buckets (id),
  name text, owner uuid references auth.users (id), metadata jsonb
);
alter table storage.objects enable row level security;
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;
grant usage on schema storage to anon, authenticated, service_role;
grant all on schema storage to supabase_storage_admin, dashboard_user;

create schema graphql_public authorization supabase_admin;
grant usage on schema graphql_public to anon, authenticated, service_role;
create schema realtime authorization supabase_admin;
"""

# The REST API learns of every change of the schema; access to two extensions is granted when
# somebody adds them.
EVENT_TRIGGERS = """
create function extensions.pgrst_ddl_watch() returns event_trigger language plpgsql as $$
begin
  if exists (
    select from pg_event_trigger_ddl_commands()
    where schema_name is distinct from 'pg_temp' and command_tag ~ '^(CREATE|ALTER|COMMENT|SELECT)'
  ) then
    notify pgrst, 'reload schema';
  end if;
end $$;
create function extensions.pgrst_drop_watch() returns event_trigger language plpgsql as $$
begin
  if exists (select from pg_event_trigger_dropped_objects() where not is_temporary) then
    notify pgrst, 'reload schema';
  end if;
end $$;
create function extensions.grant_pg_cron_access() returns event_trigger language plpgsql as $$
begin
  if exists (
    select from pg_event_trigger_ddl_commands() as command
    join pg_namespace as n on n.oid = command.objid where n.nspname = 'cron'
  ) then
    grant usage on schema cron to postgres with grant option;
  end if;
end $$;
create function extensions.grant_pg_net_access() returns event_trigger language plpgsql as $$
begin
  if exists (
    select from pg_event_trigger_ddl_commands() as command
    join pg_extension as e on e.oid = command.objid where e.extname = 'pg_net'
  ) then
    grant usage on schema net to postgres, anon, authenticated, service_role;
  end if;
end $$;
create event trigger issue_pg_cron_access on ddl_command_end when tag in ('CREATE SCHEMA')
  execute function extensions.grant_pg_cron_access();
create event trigger issue_pg_net_access on ddl_command_end when tag in ('CREATE EXTENSION')
  execute function extensions.grant_pg_net_access();
create event trigger pgrst_ddl_watch on ddl_command_end
  execute function extensions.pgrst_ddl_watch();
create event trigger pgrst_drop_watch on sql_drop
  execute function extensions.pgrst_drop_watch();
"""

# Supabase takes the power away from `postgres` last, and leaves it these rights.
DEMOTE = """
grant all on schema auth, extensions, storage to postgres;
grant all on all tables in schema auth, storage, extensions to postgres;
grant all on all sequences in schema auth, storage, extensions to postgres;
grant all on all routines in schema auth, storage, extensions to postgres;
alter default privileges in schema extensions grant all on tables to postgres with grant option;
alter default privileges in schema extensions grant all on routines to postgres with grant option;
"""


def make(dsn: str, template: str, password: str) -> None:
    """Shape a fresh server. `dsn` leads, as SUPERUSER, to its database `postgres`, `template` to
    template1; may be repeated after it was cut off."""
    with psycopg.connect(template) as connection:
        row = connection.execute(IS_MADE).fetchone()
        if not (row and row[0]):
            connection.execute(ROLES)
            connection.execute(REPLICA)
            secret = sql.Literal(password)
            for role in (OWNER, "authenticator"):
                login = sql.SQL("alter role {} password {}")
                connection.execute(login.format(sql.Identifier(role), secret))
            _shape(connection)
    with psycopg.connect(dsn, autocommit=True) as connection:
        owner = connection.execute(
            "select pg_get_userbyid(datdba) from pg_database where datname = 'postgres'"
        ).fetchone()
        if owner != (OWNER,):
            with connection.transaction():
                connection.execute("alter role postgres superuser")
                _shape(connection)
                connection.execute("alter database postgres owner to postgres")


def _shape(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """The database at hand, in the running transaction; `postgres` is a superuser till its end."""
    connection.execute("set local role postgres")
    connection.execute(AS_OWNER)
    connection.execute("reset role")
    connection.execute(EVENT_TRIGGERS)
    connection.execute(DEMOTE)
    connection.execute("alter role postgres nosuperuser")
