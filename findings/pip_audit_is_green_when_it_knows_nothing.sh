#!/usr/bin/env bash
# pip-audit 2.10.1, seen 2026-11-29.
# A release that its service answers 404 for is skipped: "No known vulnerabilities found" and exit
# status 0. An index that is a mirror, and has no JSON API, answers 404 for every release: then the
# audit of any requirements is green. `--strict` makes it a failure. A service whose answer has no key
# `vulnerabilities` is taken for one that knows of none, with `--strict` too.
# What holds: ask first about a release that has advisories, and believe no service that knows none.
# Seen:
#   plain: 0, No known vulnerabilities found
#   strict: 1
PACKAGES='pip-audit==2.10.1'
. "$(dirname "$0")/_venv.sh"
echo 'urllib3==99.0.1' >"$WORK/requirements.txt" # a release that was never made
audit() {
  "$WORK/venv/bin/pip-audit" -r "$WORK/requirements.txt" --no-deps --disable-pip --progress-spinner off \
    --cache-dir "$WORK/cache" "$@" 2>&1
}
status=0
text=$(audit) || status=$?
echo "plain: $status, $(grep -o 'No known vulnerabilities found' <<<"$text")"
strict=0
audit --strict >/dev/null || strict=$?
echo "strict: $strict"
[ "$status $strict" = "0 1" ] || { echo CHANGED; exit 1; }
