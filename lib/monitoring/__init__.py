"""Monitoring: what watches the service, and what it publishes.

The cron runs monitor: facts (of Postgres and Redis; probes and canary_probe of the site) -> the
alert rules of lib/incidents -> notifications, rollup (request counts) and status_page (with
service_levels). health answers a deep health check. statement_check asks whether Postgres would
take a lead; deployments, secrets and backups keep what a rollback, rotation or restore needs.
"""
