"""Vercel's runtime, spared what it does for nothing. Imported before anything else of ours.

Every line here only leaves work out: where the runtime has changed, or this is no runtime, nothing
happens. Nothing of the answer, the log or the work after the answer may depend on it.

Read in vercel-runtime 0.24.1 (2026-11); what each saves is measured in dev/bench/README.md.
"""

import gc
import http.server
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

RUNTIME_MODULE = "vercel_runtime.vc_init"
LISTEN_BACKLOG = 128  # socketserver's is 5: at more callers some wait a second to be let in

_blocked_imports: list[str] = []


def patch_runtime(runtime: Any) -> None:
    """Spare what can be spared before the runtime has made its server."""
    gc.disable()  # until the first request: what is imported now is no garbage
    # A documented attribute; the server is made after us.
    http.server.ThreadingHTTPServer.request_queue_size = LISTEN_BACKLOG
    if "vercel" not in sys.modules and find_spec("vercel") is None:
        # Looked for six times a request; None makes that fail at once.
        sys.modules["vercel"] = None  # type: ignore[assignment]
        # Without it nothing can be put off by `wait_until`: no event loop to wait for nothing.
        whole = getattr(runtime, "finish_wait_until", None)
        if callable(whole):
            runtime.finish_wait_until = _skip_if_empty(whole)
    # Loaded at every start, to time calls by libraries most requests never use.
    if "urllib3" not in sys.modules:
        sys.modules["urllib3"] = None  # type: ignore[assignment]
        _blocked_imports.append("urllib3")
    _import_werkzeug_without_dev_server()
    _stub_psycopg_version()


def on_request() -> None:
    """At a request: what was held back while starting may happen from now on."""
    gc.enable()
    while _blocked_imports:
        name = _blocked_imports.pop()
        if sys.modules.get(name, name) is None:
            del sys.modules[name]


@contextmanager
def gc_paused() -> Iterator[None]:
    """For a large import: what it makes is no garbage, so none is looked for meanwhile."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def can_keep_alive(environ: Mapping[str, Any], response: Any) -> bool:
    """Whether the caller may keep its connection: it wants to, and sees where the answer ends."""
    ends = "Content-Length" in response.headers or response.status_code in (204, 304)
    return ends and "close" not in environ.get("HTTP_CONNECTION", "").lower()


def _skip_if_empty(whole: Callable[[Any], None]) -> Callable[[Any], None]:
    def finish(collector: Any) -> None:
        if getattr(collector, "_pending", True):
            whole(collector)

    return finish


def _import_werkzeug_without_dev_server() -> None:
    """Import werkzeug without its development server and test client, half of its cost."""
    spared = {"werkzeug.serving": "run_simple", "werkzeug.test": "Client"}
    if any(name in sys.modules for name in ("werkzeug", *spared)):
        return
    for name, attribute in spared.items():
        stand_in = ModuleType(name)
        setattr(stand_in, attribute, None)
        sys.modules[name] = stand_in
    try:
        import_module("werkzeug")
    except ImportError:
        sys.modules.pop("werkzeug", None)  # it wants more of them than it did: then as usual
    finally:
        for name in spared:
            del sys.modules[name]


def _stub_psycopg_version() -> None:
    """Have psycopg not look up its own version, which nothing reads: that loads importlib.metadata
    and the parser of mails. Where it cannot, it says 0.0.0.0 itself."""
    for name in ("psycopg.version", "psycopg_binary.version"):
        if name not in sys.modules:
            stand_in = ModuleType(name)
            stand_in.__dict__["__version__"] = "0.0.0.0"
            sys.modules[name] = stand_in


if (_runtime := sys.modules.get(RUNTIME_MODULE)) is not None:
    patch_runtime(_runtime)
