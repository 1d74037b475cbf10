"""Sentry, loaded when there is something to report. What leaves here names code, never people.

Of an error of Postgres: its SQLSTATE, and the schema, table, column and constraint it names.

Sentry down is ignored: the log line says the same.
"""

from typing import TYPE_CHECKING, cast

import sentry_sdk

from lib import log

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

FLUSH_TIMEOUT_S = 2.0

# All of an event that may leave. Everything else (request, user, breadcrumbs, server name,
# extra, modules) can carry a header, a query string or a visitor's words.
_EVENT_FIELDS = (
    "event_id",
    "timestamp",
    "platform",
    "level",
    "release",
    "environment",
    "sdk",
    "tags",
    "transaction",
    "fingerprint",
    "contexts",
)
_CHECK_IN_FIELDS = (
    "type",
    "event_id",
    "timestamp",
    "monitor_slug",
    "check_in_id",
    "status",
    "duration",
    "release",
    "environment",
    "monitor_config",
)
_FRAME_FIELDS = ("filename", "module", "function", "lineno", "in_app", "abs_path")


class Reporter:
    """One client per instance."""

    def __init__(self, dsn: str, release: str, environment: str) -> None:
        sentry_sdk.init(
            dsn,
            release=release or None,
            environment=environment,
            default_integrations=False,
            auto_enabling_integrations=False,
            send_default_pii=False,
            include_local_variables=False,
            include_source_context=False,
            max_breadcrumbs=0,
            before_send=scrub,
            shutdown_timeout=0,
        )

    def report(self, fault: BaseException, *, request_id: str, endpoint: str) -> None:
        """Send one error and wait for it, at most FLUSH_TIMEOUT_S. Sentry down is no error."""
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("request_id", request_id)
            for name, text in log.postgres_error_fields(fault).items():
                scope.set_tag(f"postgres.{name}" if name != "sqlstate" else name, text)
            scope.set_transaction_name(endpoint)
            # Messages are dropped, so one kind of fault at one place is one issue.
            scope.fingerprint = ["{{ default }}", endpoint, type(fault).__name__]
            scope.capture_exception(fault)
        sentry_sdk.flush(timeout=FLUSH_TIMEOUT_S)

    def alert(self, name: str, *, request_id: str) -> None:
        """Send one named alarm. Sentry down is no error."""
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("request_id", request_id)
            scope.fingerprint = ["alarm", name]
            scope.capture_message(f"alarm: {name}", level="fatal")
        sentry_sdk.flush(timeout=FLUSH_TIMEOUT_S)

    def check_in(self, job: str, *, well: bool, duration_s: float, every_minutes: int) -> None:
        """Tell Sentry Crons that a job came to its end: one that stops telling is missed there.

        The monitor is made, or changed, by the check-in itself.
        """
        from sentry_sdk.crons import capture_checkin

        capture_checkin(
            monitor_slug=job,
            status="ok" if well else "error",
            duration=duration_s,
            monitor_config={
                "schedule": {"type": "interval", "value": every_minutes, "unit": "minute"},
                "checkin_margin": max(2, every_minutes // 4),
                "max_runtime": 2,
                "failure_issue_threshold": 2,
                "recovery_threshold": 1,
            },
        )
        sentry_sdk.flush(timeout=FLUSH_TIMEOUT_S)


def scrub(event: "Event", _hint: "Hint") -> "Event":
    """The event with types and places kept, and every text a visitor may be quoted in dropped."""
    names = _CHECK_IN_FIELDS if event.get("type") == "check_in" else _EVENT_FIELDS
    kept = {key: value for key, value in event.items() if key in names}
    if event.get("type") == "check_in":
        return cast("Event", kept)  # our own words and numbers alone
    contexts = cast("dict[str, object]", event.get("contexts", {}))
    kept["contexts"] = {"runtime": contexts["runtime"]} if "runtime" in contexts else {}
    exceptions = event.get("exception", {}).get("values", [])
    if exceptions:
        kept["exception"] = {"values": [_strip_exception(each) for each in exceptions]}
    if str(event.get("message", "")).startswith("alarm: "):
        kept["message"] = event["message"]  # our own words: see `alert`
    return cast("Event", kept)


def _strip_exception(exception: dict[str, object]) -> dict[str, object]:
    trace = cast("dict[str, list[dict[str, object]]]", exception.get("stacktrace") or {})
    frames = [
        {key: frame[key] for key in _FRAME_FIELDS if key in frame}
        for frame in trace.get("frames", [])
    ]
    return {
        "type": exception.get("type"),
        "module": exception.get("module"),
        "stacktrace": {"frames": frames},
    }
