"""The frame of every function: a request in, a response out, and one handler for every error.

    app = wsgi_app("leads", POST=post)

A handler takes a Context and returns a Response, or raises a Problem. What must not delay the
response goes to `context.after_response`: it runs when the body has been sent and before the
invocation ends, and is never retried, so it may only do sooner what something else would do anyway.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from werkzeug.exceptions import RequestEntityTooLarge as RequestEntityTooLarge
from werkzeug.wrappers import Request as Request
from werkzeug.wrappers import Response as Response

from lib import authorization, log, maintenance, metrics, origins, problems, runtime
from lib.language import LOCALES as LOCALES
from lib.language import best_locale
from lib.problems import CacheDown, DatabaseDown, NotConfigured, Problem
from lib.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from lib.interfaces import RunQuery
    from lib.services import Services

OPERATORS_ENDPOINTS = {
    "health", "leads_export", "leads_subject", "cron/deliver", "cron/prune", "cron/watch",
}  # fmt: skip

type Handler = Callable[["Context"], Response]
type ErrorPage = Callable[["Context", Problem], Response | None]
"""Renders a Problem as a page; None for a caller that is no browser with a form."""

_maintenance_cache = maintenance.WindowCache()


def utc_now() -> datetime:
    return datetime.now(UTC)


class Context:
    """One request, and what was decided about it."""

    def __init__(self, name: str, request: Request) -> None:
        self.name = name
        self.request = request
        self.now = utc_now()
        self.request_id = _request_id(request)
        self.log_fields: dict[str, object] = {}
        self.background_tasks: list[Callable[[], None]] = []
        self.job: tuple[str, int] | None = None
        self.outages: dict[str, BaseException] = {}

    @cached_property
    def services(self) -> "Services":
        from lib.services import get_services  # /api/health needs none

        return get_services()

    @cached_property
    def locale(self) -> str:
        """`id` or `en`, by Accept-Language; without it operators are answered in English."""
        default = "en" if self.name in OPERATORS_ENDPOINTS else LOCALES[0]
        return best_locale(self.request.headers.get("Accept-Language", ""), default)

    @property
    def client_ip(self) -> str | None:
        """The caller's address as the platform saw it; None if it is no address.

        The runtime copies x-forwarded-for, which Vercel overwrites, to REMOTE_ADDR. Any other
        header, x-real-ip too, can be shadowed by one spelled with underscores.
        """
        nearest = (self.request.environ.get("REMOTE_ADDR") or "").rpartition(",")[2].strip()
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                return socket.inet_ntop(family, socket.inet_pton(family, nearest))
        return None

    @property
    def cached_maintenance(self) -> maintenance.MaintenanceWindow | None:
        """The open window, as far as this instance knows without asking Redis."""
        return _maintenance_cache.current(Settings().maintenance_mode, self.now)

    @property
    def confirmed_maintenance(self) -> maintenance.MaintenanceWindow | None:
        """The open window, for what Postgres itself refuses in maintenance: Redis is asked only
        whether a window that this instance knows is still open."""
        if self.bypasses_maintenance:
            return None
        window = self.cached_maintenance
        if window is not None and window.since is not None:
            with suppress(CacheDown, NotConfigured):
                self.update_maintenance(self.services.cache.execute("GET", maintenance.KEY))
        return self.cached_maintenance

    @cached_property
    def maintenance(self) -> maintenance.MaintenanceWindow | None:
        """The open window, read from Redis if the last reading is old; a job always reads it.

        None for a caller with the bypass token.
        """
        if self.bypasses_maintenance:
            return None
        if self.job is not None or not _maintenance_cache.is_fresh:
            with suppress(CacheDown, NotConfigured):  # then the last reading holds
                self.update_maintenance(self.services.cache.execute("GET", maintenance.KEY))
        return self.cached_maintenance

    def update_maintenance(self, value: object) -> None:
        """Remember what Redis just held under `maintenance.KEY`."""
        _maintenance_cache.update(value)

    @property
    def bypasses_maintenance(self) -> bool:
        """Whether the caller presents the bypass token."""
        presented = self.request.headers.get(maintenance.BYPASS_HEADER)
        if presented is None:
            return False
        try:
            return authorization.matches_any(presented, (Settings().maintenance_bypass_token,))
        except NotConfigured:
            return False

    def add_log_fields(self, **fields: object) -> None:
        """Add to the request's log line: ids and decisions, never personal data."""
        self.log_fields |= fields

    def check_in(self, job: str, *, every_minutes: int) -> None:
        """After the response, tell Sentry Crons that this job ran, so that a missing run alerts."""
        self.job = (job, every_minutes)

    def after_response(self, task: Callable[[], None]) -> None:
        self.background_tasks.append(task)

    def report(self, error: Exception) -> None:
        """Log an error and send it to Sentry after the response."""
        fields = log.exception_fields(error)
        log.write("unexpected", "error", endpoint=self.name, id=self.request_id, **fields)
        if type(error).__module__.partition(".")[0] == "psycopg":
            self.record_outage("database", error)
        self.after_response(lambda: self.send_to_sentry(error))

    def send_to_sentry(self, error: Exception) -> None:
        if (reporter := self.services.reporter) is not None:
            reporter.report(error, request_id=self.request_id, endpoint=self.name)

    def record_outage(self, dependency: str, error: BaseException) -> None:
        """Note that `database`, `queue` or `mail` was down for this request, or refused it.

        After the response incidents/alerting.py checks it again, and alerts if it still fails.
        """
        self.outages.setdefault(dependency, error)

    def attempt[R, S](
        self, task: Callable[[], R], otherwise: S, *, unless: tuple[type[Exception], ...] = ()
    ) -> R | S:
        """The task's result, or `otherwise` if it fails: for what a response can do without.

        The error is reported. A Problem and the errors in `unless` are raised.
        """
        raised: tuple[type[Exception], ...] = (Problem, *unless)
        try:
            return task()
        except raised:
            raise
        except Exception as error:  # noqa: BLE001 - reported
            self.report(error)
            return otherwise


def wsgi_app(
    name: str, *, cross_origin: bool = False, page: ErrorPage | None = None, **methods: Handler
) -> "WSGIApplication":
    """An application serving `methods`; HEAD comes with GET, OPTIONS always.

    cross_origin: pages of allow-listed origins may read the responses. page: renders a Problem, or
    an unexpected error, for a browser that sent a form.
    """
    if "GET" in methods:
        methods["HEAD"] = methods["GET"]
    allowed = ", ".join(sorted({*methods, "OPTIONS"}))

    log.redact_query_strings()

    # The runtime wants exactly two parameters (inspect.signature), so this is a plain function.
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        started = time.perf_counter()
        runtime.on_request()
        request = Request(environ)
        context = Context(name, request)
        if request.method == "OPTIONS":
            response = Response(status=204, headers={"Allow": allowed})
        else:
            response = _handle(context, methods.get(request.method), allowed, page)
        if cross_origin:
            origins.add_cors_headers(context, response, allowed)
        response.headers["X-Request-Id"] = context.request_id
        response.headers.setdefault("Cache-Control", "no-store")
        has_work = context.background_tasks or context.outages
        is_done = not has_work and request_counter.would_defer(response.status_code)
        if is_done and runtime.can_keep_alive(environ, response):
            # Only then: the next request on a connection waits for the work after this response.
            response.headers["Connection"] = "keep-alive"
        took_ms = round((time.perf_counter() - started) * 1000, 1)
        response.call_on_close(lambda: _run_after_response(context, response.status_code, took_ms))
        return response(environ, start_response)

    return app


def _handle(
    context: Context, handler: Handler | None, allowed: str, page: ErrorPage | None
) -> Response:
    problem: Problem = problems.Internal()
    try:
        if handler is None:
            raise problems.MethodNotAllowed(headers={"Allow": allowed})
        return handler(context)
    except Problem as raised:
        problem = raised
    except NotConfigured as error:
        log.not_configured(error, context.request_id)
        problem = problems.ServiceNotConfigured()
    except DatabaseDown as error:
        context.add_log_fields(**log.exception_fields(error))
        context.record_outage("database", error)
        problem = problems.Unavailable()
    except Exception as error:  # noqa: BLE001 - the one place
        context.report(error)
    try:
        response = page and page(context, problem)
    except Exception as error:  # noqa: BLE001 - the Problem is returned all the same
        context.report(error)
        response = None
    return response or problem_response(context, problem)


def problem_response(context: Context, problem: Problem) -> Response:
    """A Problem as RFC 9457 problem+json, with `error` and `details` for existing callers."""
    context.add_log_fields(problem=problem.code)
    title = problem.title[context.locale]
    body: dict[str, object] = {
        "type": f"https://alfabeauty.co.id/problems/{problem.code}",
        "title": title,
        "status": problem.status,
        "detail": title,
        "request_id": context.request_id,
        "error": problem.code,
    }
    if problem.details is not None:
        body["details"] = problem.details
    response = json_response(body, problem.status, content_type="application/problem+json")
    response.headers.update(problem.headers)
    return response


def json_response(
    value: object, status: int = 200, *, content_type: str = "application/json; charset=utf-8"
) -> Response:
    """A JSON response. Its Content-Length lets a caller go before the work after it is done."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A caller may have sent half a character (a lone surrogate) that is quoted back.
    return Response(body.encode("utf-8", "replace"), status, content_type=content_type)


def _request_id(request: Request) -> str:
    """The caller's own id if it is short and plain, else a new one."""
    presented = request.headers.get("X-Request-Id", "")
    is_plain = presented.isascii() and presented.replace("-", "").replace("_", "").isalnum()
    return presented if is_plain and 8 <= len(presented) <= 128 else os.urandom(16).hex()


def _run_after_response(context: Context, status: int, took_ms: float) -> None:
    """Count the request, run its background tasks, then write its one log line."""
    _count_request(context, status, took_ms)
    for task in context.background_tasks:
        try:
            task()
        except NotConfigured as error:
            log.not_configured(error, context.request_id)
        except (CacheDown, DatabaseDown) as error:  # the worker does it later
            context.add_log_fields(deferred=type(error).__name__)
            dependency = "database" if isinstance(error, DatabaseDown) else "queue"
            context.record_outage(dependency, error)
        except Exception as error:  # noqa: BLE001 - the response is sent
            _report_late("after_response_failed", context, error)
    if context.outages:
        _raise_outage_alert(context, status)
    if context.job is not None and (reporter := context.services.reporter) is not None:
        job, every_minutes = context.job
        reporter.check_in(
            job, well=status < 500, duration_s=took_ms / 1000, every_minutes=every_minutes
        )
    request = context.request
    path = log.strip_query(request.path)[:200]
    log.write("request", endpoint=context.name, id=context.request_id, method=request.method,
              path=path, status=status, ms=took_ms, **context.log_fields)  # fmt: skip


def _raise_outage_alert(context: Context, status: int) -> None:
    from lib.incidents import alerting  # what a request without an outage never needs

    try:
        context.add_log_fields(outage=alerting.confirm_outage(context, status, find_store_fault))
    except Exception as error:  # noqa: BLE001 - the response is sent
        _report_late("alert_failed", context, error)


def find_store_fault(run: "RunQuery", now: datetime) -> str | None:
    """Why Postgres would refuse any lead (StoreCheck); loaded once a lead was refused."""
    from lib.monitoring import statement_check

    return statement_check.store_fault(run, now)


def _report_late(event: str, context: Context, error: Exception) -> None:
    fields = log.exception_fields(error)
    log.write(event, "error", endpoint=context.name, id=context.request_id, **fields)
    context.send_to_sentry(error)


def _execute(*command: str | int) -> object:
    from lib.services import get_services

    return get_services().cache.execute(*command)


request_counter = metrics.RequestCounter(_execute, _maintenance_cache.update)


def _count_request(context: Context, status: int, took_ms: float) -> None:
    """Redis down or not configured: the request goes uncounted."""
    if context.request.method == "OPTIONS":
        return
    deployment = Settings().vercel_deployment_id or "-"
    try:
        if status >= 500:  # errors are counted even while the circuit breaker is open
            context.services.cache.probe()
        request_counter.count(context.name, deployment, status, took_ms, context.now)
    except (CacheDown, NotConfigured):
        context.add_log_fields(unmeasured=True)
