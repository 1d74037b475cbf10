"""Rotating keys without an outage: one module a way of having two at once, one for the steps."""
