#!/bin/sh
# Vercel's buildCommand (vercel.json): a misspelt MAINTENANCE_MODE must not become a deployment that
# is not in maintenance. The words are those of lib/settings.py; any shell can read this, whatever
# Python the build image has.
word=$(printf %s "$MAINTENANCE_MODE" | tr 'A-Z-' 'a-z_' | tr -d ' \t\r\n')
case "$word" in
  '' | off | false | 0 | no | on | true | 1 | yes | intake | read_only) ;;
  *)
    echo "MAINTENANCE_MODE is misspelt: on, intake, read_only or off" >&2
    exit 1
    ;;
esac
