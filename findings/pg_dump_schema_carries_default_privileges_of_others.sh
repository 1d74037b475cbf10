#!/usr/bin/env bash
# PostgreSQL 17.11, seen 2026-11-28.
# `pg_dump --schema=public --no-owner`, taken by the owner of every table, also writes down the default
# privileges that *another* role has set for itself in that schema. The owner can dump them and cannot
# restore them: in place "permission denied to change default privileges", in another cluster "role
# does not exist". --no-owner does not leave them out, --no-privileges does, with every grant.
# Whoever drops first and restores afterwards has nothing left. A Supabase project is built just so.
# What holds: `pg_restore -l`, less the DEFAULT ACL lines that end with another role's name, and -L.
# Seen:
#   lines of the other role in the archive: 1
#   error: permission denied to change default privileges
#   tables restored with --single-transaction: 0
#   tables restored with the list: 1
. "$(dirname "$0")/_server.sh"
sql -c 'create role owner login createdb createrole' -c 'create role api' -c 'create database site owner owner'
export PGDATABASE=site
sql -c 'alter default privileges in schema public grant select on tables to api'
export PGUSER=owner
sql -c 'create table leads (id int primary key)'
"$BIN/pg_dump" -Fc --no-owner --schema=public -f "$WORK/site.dump"
"$BIN/pg_restore" -l "$WORK/site.dump" >"$WORK/all.list"
seen 'lines of the other role in the archive' 1 "$(grep -c 'DEFAULT ACL.* first_superuser$' "$WORK/all.list")"
sql -c 'drop table leads'
grep -v 'SCHEMA - public' "$WORK/all.list" >"$WORK/tried.list"
"$BIN/pg_restore" --no-owner --single-transaction -d site -L "$WORK/tried.list" "$WORK/site.dump" 2>"$WORK/errors" && exit 1
seen 'error' 'permission denied to change default privileges' "$(grep -o 'permission denied to change default privileges' "$WORK/errors" | head -1)"
seen 'tables restored with --single-transaction' 0 "$(sql -c "select count(*) from pg_tables where tablename = 'leads'")"
grep -v 'DEFAULT ACL.* first_superuser$' "$WORK/tried.list" >"$WORK/ours.list"
"$BIN/pg_restore" --no-owner --single-transaction -d site -L "$WORK/ours.list" "$WORK/site.dump"
seen 'tables restored with the list' 1 "$(sql -c "select count(*) from pg_tables where tablename = 'leads'")"
