"""Incidents and what is said of them.

rules (which facts are an incident) -> store (one open incident a fault, in Postgres; redis_store
and slack_store while it is down) -> messages (one Slack message an incident) <- alerting, which
the monitor and a failing request call. model is an incident's life without any store.
"""
