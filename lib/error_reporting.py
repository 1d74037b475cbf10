"""Sentry, imported when there is something to report. An event names code, never people.

Of an error of Postgres: its SQLSTATE, and the schema, table, column and constraint it names.

Sentry down is ignored: the log line says the same.
"""

from typing import TYPE_CHECKING, cast

import sentry_sdk

from lib import log

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

FLUSH_TIMEOUT_S = 2.0

# The fields of an event that are sent. Everything else (request, user, breadcrumbs, server name,
# extra, modules) can carry a header, a query string or a visitor's words.
_EVENT_FIELDS = ("event_id", "timestamp", "platform", "level", "release", "environment", "sdk",
                 "tags", "transaction", "fingerprint", "contexts")  # fmt: skip
_CHECK_IN_FIELDS = ("type", "event_id", "timestamp", "monitor_slug", "check_in_id", "status",
                    "duration", "release", "environment", "monitor_config")  # fmt: skip
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

    def report(self, error: BaseException, *, request_id: str, endpoint: str) -> None:
        """Send one error and wait for it, at most FLUSH_TIMEOUT_S. Sentry down is no error."""
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("request_id", request_id)
            for name, text in log.postgres_error_fields(error).items():
                scope.set_tag(f"postgres.{name}" if name != "sqlstate" else name, text)
            scope.set_transaction_name(endpoint)
            # Messages are dropped, so one type of error in one endpoint is one issue.
            scope.fingerprint = ["{{ default }}", endpoint, type(error).__name__]
            scope.capture_exception(error)
        sentry_sdk.flush(timeout=FLUSH_TIMEOUT_S)

    def alert(self, name: str, *, request_id: str) -> None:
        """Send one named alarm. Sentry down is no error."""
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("request_id", request_id)
            scope.fingerprint = ["alarm", name]
            scope.capture_message(f"alarm: {name}", level="fatal")
        sentry_sdk.flush(timeout=FLUSH_TIMEOUT_S)

    def check_in(self, job: str, *, well: bool, duration_s: float, every_minutes: int) -> None:
        """Tell Sentry Crons that a job ended; this also creates or updates the monitor."""
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
    """The event without any text that may quote a visitor."""
    names = _CHECK_IN_FIELDS if event.get("type") == "check_in" else _EVENT_FIELDS
    scrubbed = {key: value for key, value in event.items() if key in names}
    if event.get("type") == "check_in":
        return cast("Event", scrubbed)  # our own words and numbers only
    contexts = cast("dict[str, object]", event.get("contexts", {}))
    scrubbed["contexts"] = {"runtime": contexts["runtime"]} if "runtime" in contexts else {}
    exceptions = event.get("exception", {}).get("values", [])
    if exceptions:
        scrubbed["exception"] = {"values": list(map(_strip_exception, exceptions))}
    if str(event.get("message", "")).startswith("alarm: "):
        scrubbed["message"] = event["message"]  # our own words: see `alert`
    return cast("Event", scrubbed)


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
