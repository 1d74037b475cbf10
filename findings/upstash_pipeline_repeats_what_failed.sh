#!/usr/bin/env bash
# upstash-redis 1.8.0, seen 2026-11-28.
# A Pipeline forgets its commands only after an `exec` that succeeded. When a reply is lost, or one
# command of many is refused, the commands stay: whoever catches the error, adds the next command to
# the same Pipeline and calls `exec` sends all of the earlier ones again, although the server ran
# them the first time. No option of the client (`rest_retries=0` is set here) has a say in it.
# What holds: a new Pipeline for every batch, or `with redis.pipeline() as batch`, which resets it.
# Seen:
#   first exec: UpstashError, the server ran: incr visits; hget visits x
#   second exec: ok, the server ran: incr visits; hget visits x; set done 1
PACKAGES='upstash-redis==1.8.0 httpx==0.28.1'
. "$(dirname "$0")/_venv.sh"
"$VENV_PYTHON" - <<'PROGRAM'
import base64, json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from upstash_redis import Redis
from upstash_redis.errors import UpstashError

batches, wrong_type = [], [True]


class Server(BaseHTTPRequestHandler):
    """Answers as Upstash's REST API does: INCR and SET work, HGET meets the wrong type once."""

    def do_POST(self):
        commands = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        batches.append("; ".join(" ".join(map(str, command)).lower() for command in commands))
        replies = []
        for name, *_ in commands:
            if name == "HGET" and wrong_type:
                replies.append({"error": "WRONGTYPE Operation against a key holding the wrong kind of value"})
            else:
                replies.append({"result": {"INCR": 1, "SET": "OK"}.get(name, base64.b64encode(b"v").decode())})
        body = json.dumps(replies).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
redis = Redis(f"http://127.0.0.1:{server.server_port}", "token", rest_retries=0, allow_telemetry=False)
pipeline = redis.pipeline()
pipeline.incr("visits")
pipeline.hget("visits", "x")
try:
    pipeline.exec()
    first = "ok"
except UpstashError as error:
    first = type(error).__name__
wrong_type.clear()
pipeline.set("done", 1)
pipeline.exec()
seen = [f"first exec: {first}, the server ran: {batches[0]}", f"second exec: ok, the server ran: {batches[1]}"]
print("\n".join(seen))
assert seen == [
    "first exec: UpstashError, the server ran: incr visits; hget visits x",
    "second exec: ok, the server ran: incr visits; hget visits x; set done 1",
], "CHANGED"
PROGRAM
