"""Patches of Vercel's Python runtime, applied when `lib` is first imported.

Each only leaves work out, and does nothing where the runtime has changed or there is none. A patch
stays only while it wins 10 % of a figure callers see: the ratios are of one interleaved run with
and without it (vercel-runtime 0.24.1, 2 shared cores, 2026-11).
"""

import http.server
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

RUNTIME_MODULE = "vercel_runtime.vc_init"
LISTEN_BACKLOG = 128  # requests/s at 32 connections: x 2.7, against socketserver's 5


def patch_runtime(runtime: Any) -> None:
    """Patch the runtime, before it makes its server."""
    http.server.ThreadingHTTPServer.request_queue_size = LISTEN_BACKLOG
    # The runtime looks for `vercel`, which is not installed, six times a request, and then runs an
    # event loop to wait for nothing. Without both: requests/s of /api/health x 1.5.
    if "vercel" not in sys.modules and find_spec("vercel") is None:
        sys.modules["vercel"] = None  # type: ignore[assignment]
        finish = getattr(runtime, "finish_wait_until", None)
        if callable(finish):
            runtime.finish_wait_until = _skip_if_empty(finish)
    # The runtime imports urllib3 at start, to time calls of libraries that most requests never
    # use. Without it: CPU of a cold /api/health x 0.84, of a cold lead x 0.94.
    if "urllib3" not in sys.modules:
        sys.modules["urllib3"] = None  # type: ignore[assignment]


def on_request() -> None:
    """Allow the imports that were blocked while the process started."""
    if sys.modules.get("urllib3", "absent") is None:
        del sys.modules["urllib3"]


def can_keep_alive(environ: Mapping[str, Any], response: Any) -> bool:
    """Whether the caller may keep its connection: it asks to, and can tell where the body ends.

    Requests/s of /api/health on one connection: x 2.1.
    """
    is_delimited = "Content-Length" in response.headers or response.status_code in (204, 304)
    return is_delimited and "close" not in environ.get("HTTP_CONNECTION", "").lower()


def _skip_if_empty(finish: Callable[[Any], None]) -> Callable[[Any], None]:
    def finish_wait_until(collector: Any) -> None:
        if getattr(collector, "_pending", True):
            finish(collector)

    return finish_wait_until


if (_runtime := sys.modules.get(RUNTIME_MODULE)) is not None:
    patch_runtime(_runtime)
