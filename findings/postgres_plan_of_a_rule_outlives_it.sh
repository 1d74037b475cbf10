#!/usr/bin/env bash
# PostgreSQL 17.11, seen 2026-11-28.
# A session's prepared statement, or a statement of a PL/pgSQL function, is planned anew when a table it
# uses changes. Not so when a rule made nothing of it: with ON INSERT DO INSTEAD NOTHING the rewritten
# statement is empty, names no table any more, and so hears of no change. When the rule is dropped, new
# sessions insert; a session that ran the statement meanwhile goes on inserting nothing, reports
# INSERT 0 0 and no error, for as long as it lives. A pool keeps such sessions for hours.
# What holds: DISCARD PLANS, or new sessions, after a rule is dropped.
# Seen:
#   while the rule stands: INSERT 0 0
#   after it is dropped, the same session: INSERT 0 0
#   after it is dropped, a new session: INSERT 0 1
#   after DISCARD PLANS, the same session: INSERT 0 1
. "$(dirname "$0")/_server.sh"
sql -c 'create table leads (id int)' \
    -c 'create rule nowhere as on insert to leads do instead nothing'
mkfifo "$WORK/session"
"$BIN/psql" -XAt <"$WORK/session" >"$WORK/answers" 2>&1 &
exec 3>"$WORK/session"
answer() { # answer STATEMENT: what the long session says to it
  local before; before=$(wc -l <"$WORK/answers")
  echo "$1" >&3
  while [ "$(wc -l <"$WORK/answers")" -le "$before" ]; do sleep 0.05; done
  tail -1 "$WORK/answers"
}
answer 'prepare take (int) as insert into leads values ($1);' >/dev/null
seen 'while the rule stands' 'INSERT 0 0' "$(answer 'execute take (1);')"
sql -c 'drop rule nowhere on leads'
seen 'after it is dropped, the same session' 'INSERT 0 0' "$(answer 'execute take (2);')"
seen 'after it is dropped, a new session' 'INSERT 0 1' "$("$BIN/psql" -XAt -c 'insert into leads values (3)')"
answer 'discard plans;' >/dev/null
seen 'after DISCARD PLANS, the same session' 'INSERT 0 1' "$(answer 'execute take (4);')"
exec 3>&-
