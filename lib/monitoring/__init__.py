"""What watches the service.

monitor (the cron: collects facts, finds incidents) <- health, rollup (the counted requests),
statement_check (would Postgres take a lead?), deployments, secrets (how old keys are), backups.
status_page is what /api/status answers.
"""
