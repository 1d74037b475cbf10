#!/usr/bin/env bash
# PostgreSQL 17.11, seen 2026-11-28.
# `pg_restore -f - ARCHIVE | psql -1` looks like "all or nothing" and is not. When pg_restore dies in
# the middle, psql meets the end of its input like any other: it ends the COPY that is under way as
# if it were whole, runs what it has of the last statement, sends COMMIT and exits with 0. `set -o
# pipefail` tells afterwards; the half is committed by then.
# What holds: write BEGIN to psql yourself, and COMMIT only when pg_restore has ended with 0.
# Seen:
#   exit status of psql: 0
#   rows in the archive: 200000
#   the restored table has a part of the rows: t
#   primary keys restored: 0
. "$(dirname "$0")/_server.sh"
sql -c "create table leads (id int primary key, words text)" \
    -c "insert into leads select n, repeat('x', 100) from generate_series(1, 200000) as n"
"$BIN/pg_dump" -Fc -f "$WORK/home/whole.dump"
sql -c 'drop table leads'
# pg_restore is cut off after 5 MB of its script, as by a kill.
"$BIN/pg_restore" -f - "$WORK/home/whole.dump" 2>/dev/null | head -c 5000000 >"$WORK/half.sql" || true
set +e
cat "$WORK/half.sql" | "$BIN/psql" -X -q -1 -v ON_ERROR_STOP=1 >/dev/null 2>"$WORK/errors"
status=$?
set -e
cat "$WORK/errors"
seen 'exit status of psql' 0 "$status"
seen 'rows in the archive' 200000 200000
seen 'the restored table has a part of the rows' t "$(sql -c 'select count(*) between 1 and 199999 from leads')"
seen 'primary keys restored' 0 "$(sql -c "select count(*) from pg_constraint where contype = 'p' and conrelid = 'leads'::regclass")"
