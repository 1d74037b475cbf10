#!/usr/bin/env bash
# PostgreSQL 17.11, seen 2026-11-28.
# `pg_dump --schema=public` writes nothing of which publications a table is in (without --schema it
# does). A table that is dropped and restored from such a dump is in no publication any more, and
# nothing says so: what follows the publication (Supabase's realtime, a replica) goes on in silence.
# Seen:
#   published before: leads
#   published after: none
#   PUBLICATION TABLE lines without --schema: 1
#   PUBLICATION TABLE lines with --schema: 0
. "$(dirname "$0")/_server.sh"
sql -c 'create table leads (id int primary key)' -c 'create publication live for table leads'
published() { sql -c "select coalesce(string_agg(tablename, ','), 'none') from pg_publication_tables where pubname = 'live'"; }
seen 'published before' leads "$(published)"
"$BIN/pg_dump" -Fc -f "$WORK/whole.dump"
"$BIN/pg_dump" -Fc --schema=public -f "$WORK/schema.dump"
lines() { "$BIN/pg_restore" -l "$1" | grep -c 'PUBLICATION TABLE' || true; }
sql -c 'drop table leads'
"$BIN/pg_restore" -l "$WORK/schema.dump" | grep -v 'SCHEMA - public' >"$WORK/list"
"$BIN/pg_restore" -d postgres -L "$WORK/list" "$WORK/schema.dump"
seen 'published after' none "$(published)"
seen 'PUBLICATION TABLE lines without --schema' 1 "$(lines "$WORK/whole.dump")"
seen 'PUBLICATION TABLE lines with --schema' 0 "$(lines "$WORK/schema.dump")"
