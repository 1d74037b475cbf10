#!/usr/bin/env bash
# httpx 0.28.1 on CPython 3.12, seen 2026-11-29.
# An httpx.Client hands every answer to the cookie jar of the standard library, also one without Set-Cookie from
# a server that never sent a cookie: it wraps the request as one of urllib's, whose address is parsed once more,
# and the answer as one of urllib's. There is no option against it: `cookies=None` is the same empty jar.
# With what it does for redirects and authentication, a small exchange over a transport that does nothing took
# 0.22 ms of CPU; the same request handed to that transport 0.06.
# What holds: for many small calls of one API, hand an httpx.Request to the transport's handle_request.
# Seen, of one POST answered 200 without any cookie, calls of functions of these modules:
#   by the client: http.cookiejar asked, urllib.request asked
#   by its transport: none asked
PACKAGES='httpx==0.28.1'
. "$(dirname "$0")/_venv.sh"
seen=$("$VENV_PYTHON" - <<'PROGRAM'
import sys
import time

import httpx

transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"result": "OK"}]))
client = httpx.Client(transport=transport, trust_env=False)
URL = httpx.URL("http://localhost/pipeline")


def by_client():
    return client.post(URL, json=[["PING"]]).json()


def by_transport():
    return transport.handle_request(httpx.Request("POST", URL, json=[["PING"]])).json()


def asked(call):
    """The modules among the two whose functions run during a call."""
    call()
    modules = set()

    def note(frame, event, _argument):
        if event == "call":
            modules.add(frame.f_globals.get("__name__"))

    sys.setprofile(note)
    call()
    sys.setprofile(None)
    return sorted(modules & {"http.cookiejar", "urllib.request"})


def cpu_ms(call, times=2000):
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times * 1000


for name, call in (("by the client", by_client), ("by its transport", by_transport)):
    print(f"{name}: " + (", ".join(f"{module} asked" for module in asked(call)) or "none asked"))
print(f"CPU: {cpu_ms(by_client):.3f} ms and {cpu_ms(by_transport):.3f} ms", file=sys.stderr)
PROGRAM
)
echo "$seen"
[ "$seen" = 'by the client: http.cookiejar asked, urllib.request asked
by its transport: none asked' ] || { echo CHANGED; exit 1; }
