"""The catalogue as visitors read it.

query (parse the parameters) -> cache (memory, then entry in Redis, then Postgres, both through
sources) -> catalogue (SQL and JSON); snapshot is the copy that ships, for when neither store
answers. Called by api/products.
"""
