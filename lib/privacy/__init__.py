"""A person's rights, and how long anything is kept.

data_subject (find and export) -> requests (the register, with deadlines) -> erasure (Postgres) and
redis_erasure -> tombstones, so that no restore brings a person back (replay). retention ends
what is old, by the prune cron.
"""
