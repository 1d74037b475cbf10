"""The floor with werkzeug: an empty function that answers with its Response."""

from werkzeug.wrappers import Request, Response


def app(environ, start_response):
    Request(environ)
    response = Response('{"status":"ok"}', content_type="application/json")
    return response(environ, start_response)
