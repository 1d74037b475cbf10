"""The catalogue as visitors read it.

query (read the parameters) -> cache (memory, Redis, Postgres, in this order) -> catalogue (SQL);
snapshot is the copy that ships, for when neither store answers. Called by api/products.
"""
