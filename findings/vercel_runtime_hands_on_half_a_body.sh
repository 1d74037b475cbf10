#!/usr/bin/env bash
# vercel-runtime 0.24.1, werkzeug 3.1.9, seen 2026-11-29.
# A caller that announces 40 bytes, sends 21 and closes its side is not refused: the runtime gives the
# application what came, with CONTENT_LENGTH set to that. So werkzeug does not raise ClientDisconnected,
# as it does where a server keeps the length, and a form cut in the middle of a field is a form.
# What holds: compare the body with HTTP_CONTENT_LENGTH, where the runtime leaves what was announced.
# Seen:
#   by the runtime: b'city=Medan&message=Ha'
#   werkzeug, with its length: {'city': 'Medan', 'message': 'Ha'}
#   werkzeug, with the announced length: ClientDisconnected
PACKAGES='vercel-runtime==0.24.1 werkzeug==3.1.9'
. "$(dirname "$0")/_venv.sh"
"$VENV_PYTHON" - <<'PROGRAM'
import io

from vercel_runtime.utils import read_wsgi_request_body
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wrappers import Request

SENT = b"city=Medan&message=Ha"
body = read_wsgi_request_body(io.BytesIO(SENT), {"Content-Length": "40"})


def form(length):
    kind = "application/x-www-form-urlencoded"
    environ = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": kind, "CONTENT_LENGTH": str(length)}
    try:
        return Request({**environ, "wsgi.input": io.BytesIO(body)}).form.to_dict()
    except ClientDisconnected:
        return "ClientDisconnected"


seen = [body, form(len(body)), form(40)]
titles = ("by the runtime", "werkzeug, with its length", "werkzeug, with the announced length")
for title, each in zip(titles, seen):
    print(f"{title}: {each}")
assert seen == [SENT, {"city": "Medan", "message": "Ha"}, "ClientDisconnected"], "CHANGED"
PROGRAM
