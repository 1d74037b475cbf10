# Sourced, with PACKAGES set: a virtual environment with those pinned packages, as $VENV_PYTHON.
set -euo pipefail
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
PYTHON=${PYTHON:-python3}  # 3.12 or later
"$PYTHON" -m venv "$WORK/venv"
VENV_PYTHON=$WORK/venv/bin/python
# shellcheck disable=SC2086
"$VENV_PYTHON" -m pip install -q --no-input --disable-pip-version-check $PACKAGES
