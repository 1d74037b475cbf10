"""HTTP in, an answer out: what every endpoint does alike, and the one place that catches all.

    app = endpoint.wsgi("leads", POST=post)

A handler takes a Call and returns a Response, or raises a Problem. Whatever must not delay the
answer goes to `call.later`: it runs when the body has been sent and before the invocation ends,
is never retried, and so may only make sooner what something else would do anyway.
"""

import hmac
import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from werkzeug.exceptions import RequestEntityTooLarge as RequestEntityTooLarge
from werkzeug.wrappers import Request as Request
from werkzeug.wrappers import Response as Response

from lib import log, maintenance, metrics, problems, runtime
from lib.language import LOCALES as LOCALES
from lib.language import best_locale
from lib.problems import CacheDown, DatabaseDown, NotConfigured, Problem
from lib.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from lib.services import Services

PROBE_WAIT_S = 3.0  # for another thread that asks whether a dependency is back

type Handler = Callable[["Context"], Response]
type ErrorPage = Callable[["Context", Problem], Response | None]
"""Shows a refusal as a page; None for a caller that is no browser with a form."""

maintenance_cache = maintenance.WindowCache()


class Context:
    """One request on its way through, and what was decided about it."""

    def __init__(self, name: str, request: Request) -> None:
        self.name = name
        self.request = request
        self.now = datetime.now(UTC)
        self.request_id = _request_id(request)
        self.log_fields: dict[str, object] = {}
        self.background_tasks: list[Callable[[], None]] = []
        self.job: tuple[str, int] | None = None
        self.outages: dict[str, BaseException] = {}

    @cached_property
    def services(self) -> "Services":
        from lib.services import get_services  # health answers without

        return get_services()

    @cached_property
    def locale(self) -> str:
        """`id` or `en`, by Accept-Language."""
        return best_locale(self.request.headers.get("Accept-Language", ""))

    @property
    def client_ip(self) -> str | None:
        """The caller's address as the platform saw it; None if it is no address.

        The runtime copies x-forwarded-for, which Vercel overwrites, to REMOTE_ADDR. Any other
        header, x-real-ip too, can be shadowed by one spelled with underscores.
        """
        nearest = (self.request.environ.get("REMOTE_ADDR") or "").rpartition(",")[2].strip()
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                return socket.inet_ntop(family, socket.inet_pton(family, nearest))
            except OSError:
                continue
        return None

    @property
    def cached_maintenance(self) -> maintenance.MaintenanceWindow | None:
        """The window this request falls in, as far as this instance knows: nobody is asked."""
        return maintenance_cache.current(Settings().maintenance_mode, self.now)

    @cached_property
    def maintenance(self) -> maintenance.MaintenanceWindow | None:
        """The window this request falls in, asked of Redis unless that was done seconds ago; by a
        job always. None as well for whoever shows the bypass token.
        """
        if self._bypasses_maintenance():
            return None
        if self.job is not None or not maintenance_cache.is_fresh:
            with suppress(CacheDown, NotConfigured):  # then what was last known holds
                maintenance_cache.update(self.services.cache.execute("GET", maintenance.KEY))
        return self.cached_maintenance

    def _bypasses_maintenance(self) -> bool:
        given = self.request.headers.get(maintenance.BYPASS_HEADER)
        if given is None:
            return False
        try:
            token = Settings().maintenance_bypass_token
        except NotConfigured:
            return False
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())

    def add_log_fields(self, **facts: object) -> None:
        """Add to the request's log line: ids and decisions, never personal data."""
        self.log_fields |= facts

    def check_in(self, job: str, *, every_minutes: int) -> None:
        """After the answer, let Sentry know that this job ran: missed there, somebody is told even
        when nothing of ours can tell."""
        self.job = (job, every_minutes)

    def after_response(self, work: Callable[[], None]) -> None:
        """Run `work` after the answer."""
        self.background_tasks.append(work)

    def report(self, fault: Exception) -> None:
        """Log and report a failure that did not cost the answer."""
        _log_unexpected(self.name, self, fault)

    def record_outage(self, dependency: str, fault: BaseException) -> None:
        """Note that `database`, `queue` or `mail` was down for this request, or refused it.

        After the answer incidents/alerting.py looks again, and alerts at once if that confirms it.
        """
        self.outages.setdefault(dependency, fault)

    def attempt[R, S](
        self, work: Callable[[], R], otherwise: S, *, unless: tuple[type[Exception], ...] = ()
    ) -> R | S:
        """What `work` gives; `otherwise` where it fails, but for a Problem or one of `unless`.

        For what an answer can do without: the failure is logged and reported, and costs nobody
        their answer.
        """
        passed_on: tuple[type[Exception], ...] = (Problem, *unless)
        try:
            return work()
        except passed_on:
            raise
        except Exception as fault:  # noqa: BLE001 - reported, and done without
            self.report(fault)
            return otherwise


def wsgi_app(
    name: str, *, cross_origin: bool = False, page: ErrorPage | None = None, **methods: Handler
) -> "WSGIApplication":
    """An application serving `methods`; HEAD comes with GET, OPTIONS always.

    cross_origin: pages of allow-listed origins may read the answers. page: how a refusal, an
    unexpected error included, is shown to a browser that sent a form.
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
        call = Context(name, request)
        if request.method == "OPTIONS":
            response = Response(status=204, headers={"Allow": allowed})
        else:
            response = _handle(name, call, methods.get(request.method), allowed, page)
        if cross_origin:
            _add_cors_headers(call, response, allowed)
        response.headers["X-Request-Id"] = call.request_id
        response.headers.setdefault("Cache-Control", "no-store")
        idle = not (call.background_tasks or call.outages) and request_counter.would_defer(
            response.status_code
        )
        if idle and runtime.can_keep_alive(environ, response):
            # Said in each answer, so that nobody waits on a connection with work left to do.
            response.headers["Connection"] = "keep-alive"
        took_ms = round((time.perf_counter() - started) * 1000, 1)
        response.call_on_close(
            lambda: _run_after_response(name, call, response.status_code, took_ms)
        )
        return response(environ, start_response)

    return app


def _handle(
    name: str, call: Context, handler: Handler | None, allowed: str, page: ErrorPage | None
) -> Response:
    problem: Problem = problems.Internal()
    try:
        if handler is None:
            raise problems.MethodNotAllowed(headers={"Allow": allowed})
        return handler(call)
    except Problem as raised:
        problem = raised
    except NotConfigured as fault:
        log.not_configured(fault, call.request_id)
        problem = problems.ServiceNotConfigured()
    except DatabaseDown as fault:
        call.add_log_fields(**log.exception_fields(fault))
        call.record_outage("database", fault)
        problem = problems.Unavailable()
    except Exception as fault:  # noqa: BLE001 - the one place
        _log_unexpected(name, call, fault)
    return _render_problem(name, call, problem, page)


def _render_problem(name: str, call: Context, problem: Problem, page: ErrorPage | None) -> Response:
    """The refusal as a page where one can be shown, else as problem+json."""
    try:
        shown = page and page(call, problem)
    except Exception as fault:  # noqa: BLE001 - the refusal is said all the same
        _log_unexpected(name, call, fault)
        shown = None
    return shown or problem_response(call, problem)


def problem_response(call: Context, problem: Problem) -> Response:
    """A Problem as RFC 9457 problem+json, with `error` and `details` for existing callers."""
    call.add_log_fields(problem=problem.code)
    body: dict[str, object] = {
        "type": f"https://alfabeauty.co.id/problems/{problem.code}",
        "title": problem.title[call.locale],
        "status": problem.status,
        "detail": problem.title[call.locale],
        "request_id": call.request_id,
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
    """A JSON answer. Its Content-Length lets a caller go before the work after it is done."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A caller may have sent half a character (a lone surrogate) and have it quoted back.
    return Response(body.encode("utf-8", "replace"), status, content_type=content_type)


def has_bearer_token(request: Request, secrets: Iterable[str]) -> bool:
    """Whether the caller presents one of `secrets`, compared in constant time."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return _matches_any(token, secrets) and scheme.lower() == "bearer"


def _matches_any(token: str, secrets: Iterable[str]) -> bool:
    presented = token.strip().encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(presented, secret.encode()) for secret in secrets if secret]
    return any(matches)


def require_cron_token(call: Context) -> None:
    """Let Vercel's scheduler in, and whoever holds its token. Raises Unauthorized.

    What was down moments ago is asked again: an open circuit breaker decides no refusal.
    """
    settings = call.services.settings
    if not has_bearer_token(call.request, (settings.cron_secret, settings.cron_secret_previous)):
        raise problems.Unauthorized
    call.services.probe_open_breakers(PROBE_WAIT_S)


def require_operator_token(call: Context) -> None:
    """Let in who holds an operators' token, as a bearer or in X-Admin-Token.

    What was down moments ago is asked again: an open circuit breaker decides no refusal.
    Raises Unauthorized; NotConfigured when there is no such token.
    """
    settings = call.services.settings
    tokens = (settings.leads_admin_token, settings.leads_admin_token_previous)
    if not any(tokens):
        raise NotConfigured("LEADS_ADMIN_TOKEN", "is not set")
    given = call.request.headers.get("X-Admin-Token", "")
    if not has_bearer_token(call.request, tokens) and not _matches_any(given, tokens):
        raise problems.Unauthorized
    call.services.probe_open_breakers(PROBE_WAIT_S)


def request_origin(call: Context) -> str:
    """scheme://host the caller reached us at."""
    return f"{call.request.scheme}://{call.request.host}"


def is_allowed_origin(call: Context, origin: str) -> bool:
    """Whether `origin` is this site, the host asked, or on the allow-list."""
    settings = call.services.settings
    ours = {request_origin(call), origin_of(settings.site_url), *settings.allowed_origins}
    return origin != "null" and origin.rstrip("/") in ours


def origin_of(address: str) -> str:
    """scheme://host of an address; "null", as browsers say, of what is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "null"
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else "null"


def _add_cors_headers(call: Context, response: Response, allowed: str) -> None:
    origin = call.request.headers.get("Origin", "")
    response.headers.add("Vary", "Origin")
    if not origin or not is_allowed_origin(call, origin):
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = (
        "X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
    )
    if call.request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = allowed
        response.headers["Access-Control-Allow-Headers"] = (
            "Content-Type, Idempotency-Key, X-Form-Seconds, X-Request-Id"
        )
        response.headers["Access-Control-Max-Age"] = "86400"


def _request_id(request: Request) -> str:
    """The caller's own id if it is short and plain, else a new one."""
    given = request.headers.get("X-Request-Id", "")
    plain = given.isascii() and given.replace("-", "").replace("_", "").isalnum()
    return given if plain and 8 <= len(given) <= 128 else os.urandom(16).hex()


def _run_after_response(name: str, call: Context, status: int, took_ms: float) -> None:
    """After the answer: its count, the work put off, then the one log line."""
    _count_request(name, call, status, took_ms)
    for work in call.background_tasks:
        try:
            work()
        except NotConfigured as fault:
            log.not_configured(fault, call.request_id)
        except (CacheDown, DatabaseDown) as fault:
            # A round finishes it later; the outage itself is told of below.
            call.add_log_fields(left_undone=type(fault).__name__)
            call.record_outage("database" if isinstance(fault, DatabaseDown) else "queue", fault)
        except Exception as fault:  # noqa: BLE001 - nobody is left to tell but the log
            log.write("after_response_failed", "error", endpoint=name,
                      id=call.request_id, **log.exception_fields(fault))  # fmt: skip
            _send_to_sentry(name, call, fault)
    if call.outages:
        _raise_outage_alert(name, call, status)
    if call.job is not None:
        _send_check_in(call, status, took_ms)
    request = call.request
    path = log.strip_query(request.path)[:200]
    log.write("request", endpoint=name, id=call.request_id, method=request.method,
              path=path, status=status, ms=took_ms, **call.log_fields)  # fmt: skip


def _raise_outage_alert(name: str, call: Context, status: int) -> None:
    from lib.incidents import alerting  # what a request that met no outage never needs

    try:
        call.add_log_fields(outage=alerting.confirm_outage(call, name, status))
    except Exception as fault:  # noqa: BLE001 - nobody is left to tell but the log
        log.write(
            "alert_failed",
            "error",
            endpoint=name,
            id=call.request_id,
            **log.exception_fields(fault),
        )
        _send_to_sentry(name, call, fault)


def _execute(*command: str | int) -> object:
    from lib.services import get_services

    return get_services().cache.execute(*command)


request_counter = metrics.RequestCounter(_execute, maintenance_cache.update)


def _count_request(name: str, call: Context, status: int, took_ms: float) -> None:
    """One more answered request. Redis down or not configured: it goes uncounted."""
    if call.request.method == "OPTIONS":
        return
    deployment = Settings().vercel_deployment_id or "-"
    try:
        if status >= 500:  # what visitors get now is told by these: an open breaker drops none
            call.services.cache.probe()
        request_counter.count(name, deployment, status, took_ms, call.now)
    except (CacheDown, NotConfigured):
        call.add_log_fields(unmeasured=True)


def _send_check_in(call: Context, status: int, took_ms: float) -> None:
    job, every_minutes = call.job or ("", 0)
    try:
        reporter = call.services.reporter
    except NotConfigured:
        return
    if reporter is not None:
        reporter.check_in(
            job, well=status < 500, duration_s=took_ms / 1000, every_minutes=every_minutes
        )


def _log_unexpected(name: str, call: Context, fault: Exception) -> None:
    log.write(
        "unexpected", "error", endpoint=name, id=call.request_id, **log.exception_fields(fault)
    )
    if type(fault).__module__.partition(".")[0] == "psycopg":
        call.record_outage("database", fault)
    call.after_response(lambda: _send_to_sentry(name, call, fault))


def _send_to_sentry(name: str, call: Context, fault: Exception) -> None:
    try:
        reporter = call.services.reporter
    except NotConfigured:
        return
    if reporter is not None:
        reporter.report(fault, request_id=call.request_id, endpoint=name)
