"""A lead, from the form to the sales desk.

submission (parse) -> lead (identity) -> spam (screening) -> service (store it: Postgres, else the
Redis queue, else a mail) -> repository (one statement: idempotency, rate limit, the row), or
admission (the same in Redis) -> outbox and emails (both mails, once). worker drains queue and
outbox, called by the deliver cron. Called by api/leads, the crons and ops.
"""
