"""The site's address: vercel.json's rules in front of `public/` and the functions."""

import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from dev.edge import functions, proxy, static_files
from dev.edge.functions import Pool
from dev.edge.http_server import App, Request, Response, as_text
from dev.edge.proxy import Site
from dev.edge.routes import Routes
from dev.edge.runtime import Function, StartFailed
from dev.platform.logs import LogBuffer

_ATTEMPTS = 2


class RoutesFile:
    """vercel.json, read again whenever it changes; a broken edit keeps failing loudly."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._seen = -1
        self._routes = Routes()
        self.current()

    def current(self) -> Routes:
        """Unsupported when the file asks for what this router cannot do."""
        with self._lock:
            modified = self._file.stat().st_mtime_ns if self._file.exists() else 0
            if modified != self._seen:
                self._routes = Routes.load(self._file)
                self._seen = modified
            return self._routes

    def max_duration_s(self, entrypoint: str) -> float:
        return self.current().max_duration_s(entrypoint)


class Router:
    """`site` is asked at each request: the port is known only once the server listens."""

    def __init__(
        self, root: Path, routes: RoutesFile, pool: Pool, log: LogBuffer, site: Callable[[], Site]
    ) -> None:
        self._root = root
        self._routes = routes
        self._pool = pool
        self._log = log
        self._site = site

    def __call__(self, request: Request) -> Response:
        try:
            routes = self._routes.current()
        except ValueError as fault:
            return as_text(f"vercel.json: {fault}\n", 500)
        path, _, query = request.target.partition("?")
        if not path.startswith("/"):
            return as_text("Bad Request\n", 400)
        redirect = routes.redirect(path, query)
        if redirect is not None:
            response = as_text("Redirecting...\n", redirect.status)
            response.headers["Location"] = redirect.location
            return response
        response = self._answer(routes, request, path, query)
        for name, value in routes.response_headers(path):
            # A function's own header wins over vercel.json's (Vercel's documentation, 2026-11).
            response.headers.setdefault(name, value)
        response.headers["Server"] = "Vercel"
        response.headers.setdefault("x-vercel-id", proxy.new_id())
        return response

    def _answer(self, routes: Routes, request: Request, path: str, query: str) -> Response:
        if request.oversized:
            return proxy.error(
                413,
                "FUNCTION_PAYLOAD_TOO_LARGE",
                "Request Entity Too Large",
                proxy.new_id(),
            )
        for target in (request.target, *routes.rewritten(path, query)):
            response = self._at(routes, request, target)
            if response is not None:
                return response
        return self._missing(request, path)

    def _at(self, routes: Routes, request: Request, target: str) -> Response | None:
        """The file or function at `target`; None when there is neither."""
        path = unquote(target.split("?", 1)[0])
        file = static_files.find(self._root / "public", path, clean_urls=routes.clean_urls)
        if file is not None:
            return static_files.respond(file, request)
        entrypoint = functions.entrypoint_of(self._root, path)
        return None if entrypoint is None else self._invoke(entrypoint, request, target)

    def _invoke(self, entrypoint: str, request: Request, target: str) -> Response:
        for _ in range(_ATTEMPTS):
            try:
                function = self._pool.enter(entrypoint)
            except StartFailed as fault:
                self._log.add(entrypoint.removesuffix(".py"), "fatal", str(fault))
                break
            try:
                return proxy.forward(function, request, target, self._site())
            except proxy.ClientGone:
                # It died since the last request: Vercel starts another one.
                function.condemn()
        return proxy.invocation_failed(proxy.new_id())

    def _missing(self, request: Request, path: str) -> Response:
        page = self._root / "public" / "404.html"
        if not path.startswith("/api/") and page.is_file() and request.method in ("GET", "HEAD"):
            return static_files.respond(page, request, status=404)
        text = "The page could not be found"
        return proxy.error(404, "NOT_FOUND", text, proxy.new_id())


def direct(function: Function, site: Callable[[], Site]) -> App:
    """A router of one function alone, for tests that need a process of their own."""

    def answer(request: Request) -> Response:
        if not function.alive:
            return proxy.invocation_failed(proxy.new_id())
        function.enter()
        try:
            return proxy.forward(function, request, request.target, site())
        except proxy.ClientGone:
            return proxy.invocation_failed(proxy.new_id())

    return answer
