"""One JSON line an event, on the platform's log. Ids and decisions only, never personal data."""

import json
import logging
import re
import traceback

from lib.problems import NotConfigured

_logger = logging.getLogger("alfa")
_logger.setLevel(logging.INFO)

# The runtime's log handler ignores Formatters, so the message itself is the JSON.
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def write(event: str, level: str = "info", /, **fields: object) -> None:
    """Write one line: the event's name, then fields (JSON values; others by their type's name)."""
    line = {"event": event, **{key: value for key, value in fields.items() if value is not None}}
    text = json.dumps(line, ensure_ascii=False, default=lambda value: type(value).__name__)
    _logger.log(_LEVELS[level], "%s", text)


def not_configured(error: NotConfigured, request_id: str) -> None:
    """Log the variable's name, which no response holds."""
    write("not_configured", "error", id=request_id, variable=error.variable, fault=error.reason)


def redact_query_strings() -> None:
    """Remove query strings, which hold people's addresses and numbers, from the runtime's lines."""
    from http.server import BaseHTTPRequestHandler  # what the runtime serves with

    def log_request(
        self: BaseHTTPRequestHandler, code: int | str = "-", size: int | str = "-"
    ) -> None:
        self.log_message('"%s" %s %s', strip_query(self.requestline), str(code), str(size))

    def log_error(self: BaseHTTPRequestHandler, format: str, *args: object) -> None:  # noqa: A002
        # A request line that is none is quoted here whole.
        self.log_message("%s", strip_query(format % args))

    BaseHTTPRequestHandler.log_request = log_request  # type: ignore[method-assign]
    BaseHTTPRequestHandler.log_error = log_error  # type: ignore[method-assign]


def strip_query(line: str) -> str:
    """A line up to its query, with the protocol that ends a request line."""
    return re.sub(r"(?:\?|%3F).*?( HTTP/[0-9.]+)?$", r"?\1", line, flags=re.IGNORECASE | re.DOTALL)


def exception_fields(error: BaseException) -> dict[str, object]:
    """What happened and where, without the error's text: that may quote a caller's data."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    at = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    causes = [type(cause).__qualname__ for cause in cause_chain(error)]
    return {"fault": causes, "at": at, **postgres_error_fields(error)}


def cause_chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from, five at most."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 5:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


_DIAGNOSTICS = {"schema": "schema_name", "table": "table_name", "column": "column_name",
          "constraint": "constraint_name"}  # fmt: skip
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


def postgres_error_fields(error: BaseException) -> dict[str, str]:
    """SQLSTATE and the names Postgres gives of the first error of its own in the chain.

    Never its message, detail or hint: those quote values. What is no plain identifier is left out.
    """
    for cause in cause_chain(error):
        diag, sqlstate = getattr(cause, "diag", None), getattr(cause, "sqlstate", None)
        if diag is None or not isinstance(sqlstate, str):
            continue
        values = {name: getattr(diag, attribute, None) for name, attribute in _DIAGNOSTICS.items()}
        names = {name: text for name, text in values.items()
                 if isinstance(text, str) and _IDENTIFIER.fullmatch(text)}  # fmt: skip
        return {"sqlstate": sqlstate, **names}
    return {}
