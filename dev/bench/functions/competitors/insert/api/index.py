"""The floor and one bare INSERT, on a connection that each thread keeps for ever."""

import os
import queue
import uuid

import psycopg

INSERT = "insert into bench.leads (id, business_name, phone) values (%s, %s, %s)"

idle_connections = queue.LifoQueue()


def app(environ, start_response):
    try:
        connection = idle_connections.get_nowait()
    except queue.Empty:
        connection = psycopg.connect(
            os.environ["DATABASE_URL"], autocommit=True, prepare_threshold=None
        )
    connection.execute(INSERT, (str(uuid.uuid4()), "Barber Maju Jaya", "+6281234567890"))
    idle_connections.put(connection)
    body = b'{"success":true}'
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]
