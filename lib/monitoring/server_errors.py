"""What a Postgres server's error says, in words for a person, without values.

psycopg is loaded when an error is described: deep health's first response does without it.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    import psycopg

READ_ONLY_SQLSTATE = "25006"

QUOTABLE_SQLSTATE_CLASSES = ("0A", "23", "25", "40", "42", "53", "54", "55", "57", "2F", "3D", "3F")
SQLSTATE_MEANINGS = {
    READ_ONLY_SQLSTATE: "the database is read-only",
    "42501": "a right or a policy is missing",
    "53100": "the disk is full",
    "55P03": "a table is locked",
    "57014": "it takes too long",
    "P0001": "a trigger or function refuses it",
    "P0002": 'a row written to table "leads" is not there (a trigger, rule or constraint?)',
}
DIAGNOSTIC_FIELDS = ("schema_name", "table_name", "column_name", "datatype_name", "constraint_name")


def is_server_error(error: BaseException | None) -> "TypeGuard[psycopg.Error]":
    """Whether a server raised it, which is no outage and says why."""
    return getattr(error, "sqlstate", None) is not None and isinstance(error, server_errors())


def server_errors() -> "tuple[type[psycopg.Error], ...]":
    """For `except`: what a refused statement fails with."""
    import psycopg

    return (psycopg.Error,)


def describe_error(
    error: "psycopg.Error", parameter_name: Callable[[int], str | None] = lambda _: None
) -> str:
    """Its meaning, the names the server gives, and the SQLSTATE.

    parameter_name: of the statement's parameter of that number.
    """
    diag, code = error.diag, error.sqlstate or "?"
    raised = diag.source_function == "exec_stmt_raise"  # by a function, whose text may be anything
    quotable = code[:2] in QUOTABLE_SQLSTATE_CLASSES and not raised
    message = (diag.message_primary or "") if quotable else ""
    meaning = SQLSTATE_MEANINGS.get(code, "" if message else _error_name(error))
    parts = [part for part in (meaning, message) if part]
    if code == "0A000" and not raised and diag.message_hint:
        parts.append(diag.message_hint)  # of a rule, which the message does not name
    text = ": ".join(parts)
    names = [
        f"{field.removesuffix('_name')} {value}"
        for field in DIAGNOSTIC_FIELDS
        if (value := getattr(diag, field)) and value not in text and value != "public"
    ]
    context = diag.context or ""
    if (match := re.search(r"parameter \$(\d+)", context)) is not None:
        names.append(f"value of {parameter_name(int(match[1]))}")
    if (match := re.search(r"function ([\w.\"]+)\(", context)) is not None:
        names.append(f"in function {match[1]}")
    return ", ".join([text, *names]) + f" ({code})"


def _error_name(error: Exception) -> str:
    """psycopg names its errors as the standard does: `InvalidTextRepresentation`."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
