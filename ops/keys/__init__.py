"""Keys: how old they are, and replacing one without an outage: `ops keys`, `ops rotate`.

rotation.py runs the steps, rotation_store.py records them in `key_rotations`; one class a type of
key (database.py, shared_secrets.py, vendors.py) knows how two values are valid at once, and how an
old one is revoked and tried. The new value is written to the operator's own file (key_file.py).
"""
