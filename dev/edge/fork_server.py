"""Forks function processes from one interpreter that has imported what every one of them imports.

Run by path, with the path of the UNIX socket to its owner. A function's process does what
dev/edge/runtime.py's `_BOOT` says, as a new interpreter would, but no library is read again:
three quarters of a start is that. Nothing of api/ and lib/ may be imported here, nor a library
that looks at its environment, or that lib/runtime.py hides from others.
"""

import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time

PRELOADED = (
    *("asyncio", "http.server", "http.client", "email.utils", "email.parser", "logging", "uuid"),
    *("concurrent.futures.thread", "tempfile", "zoneinfo", "hashlib", "hmac", "html", "csv"),
    *("dataclasses", "contextlib", "typing", "urllib.request", "secrets", "statistics", "inspect"),
    *("ipaddress", "unicodedata", "ssl", "decimal", "traceback", "ast", "zlib", "shutil"),
    *("typing_extensions", "werkzeug", "werkzeug.wrappers", "pydantic_core"),
    *("psycopg", "psycopg.rows", "psycopg.types.json", "nacl.bindings"),
    *("certifi", "h11", "httpcore", "httpx", "upstash_redis", "upstash_redis.http"),
)
MOST_BYTES = 1 << 20


def main() -> dict[str, object] | None:
    """Serve until the owner has gone: None; or, in a new process, what it has to be."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    owner = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner.connect(sys.argv[1])
    woken, waking = socket.socketpair()
    for end in (woken, waking):
        end.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(owner, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if woken in ready:
            woken.recv(4096)
            _report_ended(owner)
        if owner not in ready:
            continue
        message, descriptors, _flags, _address = socket.recv_fds(owner, MOST_BYTES, 1)
        if not message:
            return None
        ours = os.getpid()
        pid = os.fork()
        if pid == 0:
            selector.close()
            for end in (owner, woken, waking):
                end.detach()
            job: dict[str, object] = json.loads(message)
            _become(job, descriptors[0], ours)
            return job
        os.close(descriptors[0])
        owner.send(json.dumps({"started": pid}).encode())


def _report_ended(owner: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        ended = {"ended": pid, "status": os.waitstatus_to_exitcode(status)}
        owner.send(json.dumps(ended).encode())


def _become(job: dict[str, object], output: int, parent: int) -> None:
    """What exec leaves to a new program: one output, no other file, its own environment."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)  # it died before it was tied to
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - pathlib is no part of a function
        os.dup2(nothing.fileno(), 0)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.closerange(3, 256)
    os.chdir(str(job["cwd"]))
    environ = job["environ"]
    assert isinstance(environ, dict)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    sys.argv[:] = ["-c"]


if __name__ == "__main__":
    # The folder of this file is no place to import from: its names hide others'.
    sys.path[0] = ""
    job = main()
    if job is not None:
        exec(compile(str(job["code"]), "<string>", "exec"), {"__name__": "__main__"})
