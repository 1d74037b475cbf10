"""What every function shares: decisions by noun, one adapter a vendor, one place for settings."""

from lib import runtime  # noqa: F401 - first of all: it tunes the runtime that imports us
