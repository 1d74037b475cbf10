#!/usr/bin/env bash
# httpx 0.28.1 with click 8.3.1, rich 14.2.0, seen 2026-11-28.
# `import httpx` tries to import the module of its own command line. Where click, rich and pygments are
# not installed, that fails in silence and costs little. Where they are, for whatever other tool of the
# same environment, every program that imports httpx loads all three: 280 modules instead of 178 at each start,
# which no one asked for and no dependency tells: httpx declares them for httpx[cli] alone.
# What holds: keep command line tools out of the environment whose start counts.
# Seen:
#   httpx alone: click False, rich False, pygments False
#   beside a command line tool: click True, rich True, pygments True
PACKAGES='httpx==0.28.1'
. "$(dirname "$0")/_venv.sh"
loaded() {
  "$VENV_PYTHON" - "$1" <<'PROGRAM'
import sys

import httpx  # noqa: F401

print(f"{sys.argv[1]}: " + ", ".join(f"{name} {name in sys.modules}" for name in ("click", "rich", "pygments")))
print(f"modules: {len(sys.modules)}", file=sys.stderr)
PROGRAM
}
before=$(loaded 'httpx alone')
"$VENV_PYTHON" -m pip install -q --no-input --disable-pip-version-check click==8.3.1 rich==14.2.0
after=$(loaded 'beside a command line tool')
printf '%s\n%s\n' "$before" "$after"
[ "$before" = 'httpx alone: click False, rich False, pygments False' ] || { echo CHANGED; exit 1; }
[ "$after" = 'beside a command line tool: click True, rich True, pygments True' ] || { echo CHANGED; exit 1; }
