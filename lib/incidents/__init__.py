"""Incidents and their alerts.

Flow: rules (facts -> findings) -> alerting -> fallback (Postgres, else Redis, else Slack) -> store
(one open incident an area) -> notifier (one Slack message an incident; texts in messages). model is
an incident without any store. Called by the monitor, and by a request that met an outage.
"""
