"""The handbook as commands: `python3 -m ops`. Nothing here is shipped with a function."""
