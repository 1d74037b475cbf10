"""A site with one injectable parameter, to show that sqlmap finds it: /products?id=1&name=oil.

`id` is put into the statement as it comes, `name` is handed over beside it.
"""

import sqlite3
from urllib.parse import parse_qs

from dev.edge.http_server import Request, Response, as_json

PATH, INJECTABLE, SAFE = "/products", "id", "name"

CREATE = "create table products (id integer, name text)"
INSERT = "insert into products values (1, 'oil'), (2, 'wax'), (3, 'comb')"
SELECT_BY_ID = "select name from products where id = {}"
SELECT_BY_NAME = "select id from products where name = ?"


def answer(request: Request) -> Response:
    query = parse_qs(request.target.partition("?")[2])
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(CREATE)
        connection.execute(INSERT)
        if INJECTABLE in query:
            rows = connection.execute(SELECT_BY_ID.format(query[INJECTABLE][0])).fetchall()
        else:
            rows = connection.execute(SELECT_BY_NAME, query.get(SAFE, [""])[:1]).fetchall()
    except sqlite3.Error:
        return as_json({"error": "unreadable"}, 400)
    finally:
        connection.close()
    return as_json({"products": rows})
