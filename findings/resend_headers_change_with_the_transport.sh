#!/usr/bin/env bash
# resend 2.52.0 with httpx 0.28.1 and requests 2.34.0, seen 2026-11-28.
# Resend's client takes another HTTP client by a documented setting (`resend.default_http_client`), and
# its errors carry the answer's headers. It copies those into a plain dict, where names are told apart
# by case. With requests the names are as the server wrote them; with httpx they are in lower case.
# Code that reads `error.headers["Retry-After"]` waits as told with the one and finds nothing with the
# other, over the same answer; `"retry-after"` the other way round.
# What holds: look the name up without regard to case.
# Seen:
#   requests: Retry-After 7, retry-after None
#   httpx: Retry-After None, retry-after 7
PACKAGES='resend==2.52.0 httpx==0.28.1 requests==2.34.0'
. "$(dirname "$0")/_venv.sh"
"$VENV_PYTHON" - <<'PROGRAM'
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import resend
from resend.exceptions import RateLimitError
from resend.http_client import HTTPClient
from resend.http_client_requests import RequestsClient


class Server(BaseHTTPRequestHandler):
    """Answers as Resend does when asked too often."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"statusCode": 429, "name": "rate_limit_exceeded", "message": "Too many requests"}).encode()
        self.send_response(429)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Httpx(HTTPClient):
    """The documented way to bring another client."""

    def request(self, method, url, headers, json=None, files=None, data=None):
        response = httpx.request(method, url, headers=dict(headers), json=json)
        return response.content, response.status_code, response.headers


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
resend.api_key, resend.api_url = "re_x", f"http://127.0.0.1:{server.server_port}"
mail = {"from": "a@example.com", "to": "b@example.com", "subject": "s", "text": "t"}
seen = []
for name, client in (("requests", RequestsClient()), ("httpx", Httpx())):
    resend.default_http_client = client
    try:
        resend.Emails.send(mail)
    except RateLimitError as error:
        seen.append(f"{name}: Retry-After {error.headers.get('Retry-After')}, retry-after {error.headers.get('retry-after')}")
print("\n".join(seen))
assert seen == ["requests: Retry-After 7, retry-after None", "httpx: Retry-After None, retry-after 7"], "CHANGED"
PROGRAM
