"""`python3 -m ops`: any Python 3.6 or later gets this far."""

import os
import sys

from dev import bootstrap

os.chdir(str(bootstrap.ROOT))
bootstrap.prepare()
sys.stdout.flush()
os.execv(str(bootstrap.PYTHON), [str(bootstrap.PYTHON), "-m", "ops.cli", *sys.argv[1:]])
