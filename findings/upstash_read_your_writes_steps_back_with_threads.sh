#!/usr/bin/env bash
# upstash-redis 1.8.0, seen 2026-11-28.
# `read_your_writes=True`, the default, promises that a command sees all earlier writes of the same
# client. The client keeps one token, that of the answer which *arrived* last. When threads share the
# client and a slow answer arrives after the answer to a later write, the older token takes the newer
# one's place: the next command asks a replica for less than what the client has been told is stored.
# What holds: a client for each thread, or no promise.
# Seen:
#   tokens answered, in order of arrival: 2 1
#   token sent with the next command: 1
PACKAGES='upstash-redis==1.8.0 httpx==0.28.1'
. "$(dirname "$0")/_venv.sh"
"$VENV_PYTHON" - <<'PROGRAM'
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from upstash_redis import Redis

first_arrived, second_answered = threading.Event(), threading.Event()
sent, answered, number = [], [], iter("123")


class Server(BaseHTTPRequestHandler):
    """Takes writes in order, numbers them by its token, and answers the first one last."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        sent.append(self.headers["Upstash-Sync-Token"])
        token = next(number)
        if token == "1":
            first_arrived.set()
            second_answered.wait(10)
        body = json.dumps({"result": "OK"}).encode()
        self.send_response(200)
        self.send_header("Upstash-Sync-Token", token)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
redis = Redis(f"http://127.0.0.1:{server.server_port}", "token", rest_retries=0, allow_telemetry=False)


def write(key):
    redis.set(key, "x")
    answered.append(redis._sync_token)


slow = threading.Thread(target=write, args=("a",))
slow.start()
assert first_arrived.wait(10)
write("b")
second_answered.set()
slow.join()
redis.get("b")
seen = [f"tokens answered, in order of arrival: {' '.join(answered)}", f"token sent with the next command: {sent[2]}"]
print("\n".join(seen))
assert seen == ["tokens answered, in order of arrival: 2 1", "token sent with the next command: 1"], "CHANGED"
PROGRAM
