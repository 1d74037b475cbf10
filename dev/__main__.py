"""`python3 -m dev`: any Python 3.6 or later gets this far."""

from dev.bootstrap import main

main()
