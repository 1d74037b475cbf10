"""The floor: an empty raw WSGI function, as the runtime serves it untuned."""


def app(environ, start_response):
    body = b'{"status":"ok"}'
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]
