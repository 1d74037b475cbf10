"""A person's rights, and how long data is kept.

requests (the register and its deadline) -> data_subject (what is held) -> erasure (Postgres) ->
redis_erasure (Redis) -> a receipt. tombstones keep erased data from coming back. retention ends old
data. Callers: api/leads_subject.py, api/cron/, ops/privacy/, and monitoring for the deadlines.
"""
