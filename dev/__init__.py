"""The platform on one machine: `python3 -m dev`. Nothing here is shipped with a function."""
