"""Upstash's REST API and Resend for the bench: their answers, their delays, and next to no CPU.

What the functions talk to runs on the same machine as they do here, and nowhere near it in
production. The stand-ins of the tests cost a lead as much CPU as the function does.
"""

import contextlib
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable

from dev.bench.functions.listener import Listener
from dev.vendors import resp, upstash

type Answer = Callable[[bytes, bytes], bytes]
"""The head in lower case and the body of a request -> the body of the answer, JSON."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class DelayedServer:
    """An HTTP server at `url` whose answers come delay_s late. requests: so far."""

    def __init__(self, delay_s: float, answer: Answer) -> None:
        self._delay_s, self._answer = delay_s, answer
        self._lock = threading.Lock()
        self.requests = 0
        self._listener = Listener(self._serve)
        self.url = f"http://127.0.0.1:{self._listener.port}"

    def close(self) -> None:
        self._listener.close()

    def _serve(self, caller: socket.socket) -> None:
        came = b""
        with contextlib.suppress(OSError), caller:
            while more := caller.recv(1 << 16):
                came += more
                head, ends, rest = came.partition(b"\r\n\r\n")
                head = head.lower()
                length = int(match[1]) if (match := _LENGTH.search(head)) else 0
                if not ends or len(rest) < length:
                    continue
                with self._lock:
                    self.requests += 1
                time.sleep(self._delay_s)
                answer = self._answer(head, rest[:length])
                caller.sendall(_HEAD % len(answer) + answer)
                came = rest[length:]


def redis(valkey_port: int) -> Answer:
    """Upstash's protocol, as in dev/vendors/upstash.py, for whoever asks."""
    connections = resp.Connections(valkey_port)

    def answer(head: bytes, body: bytes) -> bytes:
        given = json.loads(body)
        alone = b" /pipeline " not in head.partition(b"\r\n")[0]
        commands = [upstash.command_of(command) for command in ([given] if alone else given)]
        with connections.borrow() as connection:
            replies = connection.run(commands)
        encode = b"\r\nupstash-encoding: base64" in head
        results = [upstash.reply_to_json(reply, encode) for reply in replies]
        return json.dumps(results[0] if alone else results).encode()

    return answer


def mail(_head: bytes, _body: bytes) -> bytes:
    """Resend's answer to a mail it took."""
    return json.dumps({"id": str(uuid.uuid4())}).encode()
