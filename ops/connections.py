"""Why a server cannot be used, in words: the one place that reads connection errors.

The rule a newcomer would break: the words come from the error's kind and never from its text alone,
since a server's text may quote a password, an address with one, or a row.
"""

import re
import ssl
from collections.abc import Iterator

from lib.problems import CacheDown, DatabaseDown, NotConfigured

STOPPED = "the server does not listen there: it is stopped, or the port is wrong"
WRONG_HOST = "the host name is unknown: the address is wrong, or DNS fails"
NO_ROUTE = "there is no route to the host: the address is wrong, or the network fails"
SILENT = "it does not answer in time: it is overloaded, or a firewall is in the way"
TLS = "TLS fails: the certificate is not trusted, or one side wants TLS and the other has none"
PASSWORD = "the password is wrong"  # noqa: S105 - words, no password
NO_ROLE = "the role does not exist, or may not log in"
NO_DATABASE = "the database does not exist: the name in the address is wrong"
NO_RIGHT = "the role logs in, and lacks a right to what the command needs"
CUT = "the connection was cut: the server restarts, or the pooler closed it"
REFUSED_TOKEN = "the token is refused: it is wrong, expired or revoked"  # noqa: S105
FORBIDDEN_TOKEN = "the token is known, and lacks the right to do this"  # noqa: S105
OPEN_BREAKER = "it failed recently and is asked again in 30 s"
READ_ONLY = "the server is read-only: it is a replica, or its disk is full"

# SQLSTATE, or its class, -> why.
_SQLSTATES = {
    "28P01": PASSWORD, "28000": NO_ROLE, "3D000": NO_DATABASE, "42501": NO_RIGHT,
    "53300": "the server has no connection left: too many are open",
    "57P03": "the server starts up, or shuts down", "57P01": CUT, "57014": SILENT,
    "25006": READ_ONLY, "42P01": "a table is missing: are the migrations applied?",
    "42703": "a column is missing: are the migrations applied?",
    "3F000": "a schema is missing: are the migrations applied?",
}  # fmt: skip
# Classes of SQLSTATEs that say that the server itself cannot be used: connection, role,
# resources, operator, system, configuration.
_SERVER_CLASSES = ("08", "28", "53", "57", "58", "F0", "XX")
# What libpq and the operating system say where there is no SQLSTATE, in this order.
_TEXTS = (
    (r"password authentication failed|no password supplied|SASL authentication failed", PASSWORD),
    (r"role \S+ (does not exist|is not permitted)|tenant or user not found", NO_ROLE),
    (r"no pg_hba.conf entry|pg_hba.conf rejects", "the server does not let this address in"),
    (r"database \S+ does not exist", NO_DATABASE),
    (r"certificate|SSL|TLS", TLS),
    (r"name or service not known|resolve|getaddrinfo|nodename|name resolution", WRONG_HOST),
    (r"connection refused|\[Errno 111\]", STOPPED),
    (r"no route|network is unreachable|\[Errno 101\]|\[Errno 113\]", NO_ROUTE),
    (r"too many (connections|clients)|max client", _SQLSTATES["53300"]),
    (r"starting up|shutting down", _SQLSTATES["57P03"]),
    (r"timeout|timed out", SILENT),
    (r"closed|reset|terminat|broken pipe|disconnected", CUT),
)


def explain(error: BaseException) -> str:
    """Which server, and why it cannot be used, or what it refused; for any error of psycopg, httpx,
    urllib or ours."""
    if refusal := _data_refusal(error):
        return refusal
    server = "Redis" if isinstance(error, CacheDown) else "The server"
    if isinstance(error, DatabaseDown) or type(error).__module__.startswith("psycopg"):
        server = "Postgres"
    return f"{server} cannot be used: {explain_reason(error)}"


def _data_refusal(error: BaseException) -> str:
    """Postgres answers, and does not take what was asked; names of its objects, no values."""
    sqlstate = getattr(error, "sqlstate", None)
    if not isinstance(sqlstate, str) or sqlstate in _SQLSTATES or sqlstate[:2] in _SERVER_CLASSES:
        return ""
    diagnostics = getattr(error, "diag", None)
    names = [
        f"{kind} {name}"
        for kind in ("table", "column", "constraint")
        if (name := getattr(diagnostics, f"{kind}_name", None))
    ]
    details = "".join(f", {name}" for name in names)
    return f"Postgres refused the statement: {type(error).__name__} ({sqlstate}{details})"


def explain_reason(error: BaseException) -> str:
    """The reason alone, by the first error of the chain that says one."""
    reasons = [reason for cause in _chain(error) if (reason := _reason(cause))]
    if reasons:
        return reasons[0]
    names = [type(cause).__name__ for cause in _chain(error)]
    if names[0] == "CacheDown" and len(names) > 1:
        return "it answers, and rejects commands: the token is refused, or the address is wrong"
    return OPEN_BREAKER if names in (["DatabaseDown"], ["CacheDown"]) else names[-1]


def explain_missing(error: Exception) -> str:
    """The reason, where it may be that a variable is missing."""
    return str(error) if isinstance(error, NotConfigured) else explain_reason(error)


def explain_status(status: int) -> str:
    """What a vendor's HTTP status says of the key that was used; empty for a good answer."""
    if status < 300:
        return ""
    words = {
        401: REFUSED_TOKEN,
        403: FORBIDDEN_TOKEN,
        404: "the id or the address is unknown there",
        429: "too many requests: it asks to wait",
    }
    return words.get(status, f"it answers {status}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _reason(error: BaseException) -> str:
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate in _SQLSTATES:
        return _SQLSTATES[sqlstate]
    if isinstance(error, ssl.SSLError):
        return TLS
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return SILENT
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 300:
        return explain_status(status)
    text = str(error)
    return next((words for pattern, words in _TEXTS if re.search(pattern, text, re.I)), "")
