"""Commands about the catalogue: import, export, cache."""
