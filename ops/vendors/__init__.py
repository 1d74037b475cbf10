"""The management interfaces of vendors: one module each, over http.py."""
