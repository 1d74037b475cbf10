"""`python3 -m ops`: any Python 3.6 or later gets this far."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = str(ROOT / ".venv" / "bin" / "python")

os.chdir(str(ROOT))
# Leaves an up-to-date .venv, or says what is in the way.
if subprocess.call([sys.executable, "-m", "dev", "prepare"]) != 0:
    sys.exit(1)
os.execv(PYTHON, [PYTHON, "-m", "ops.cli", *sys.argv[1:]])
