"""Who may import whom, read from the syntax tree; and what each function really loads.

A row below says what a module may import at its top, what only inside a function (a vendor that
the first answer does without), and what for its types alone. The standard library is free.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "api").rglob("*.py")])


class May(NamedTuple):
    """What a module may import; each further place may also hold what the earlier ones may."""

    at_the_top: set[str]
    inside_functions: set[str] = set()
    for_types: set[str] = set()


ROOMS = ("incidents", "leads", "monitoring", "privacy", "products", "vitals")
NOUNS = {
    "lib.incidents.alerting",
    "lib.incidents.alert_mail",
    "lib.incidents.messages",
    "lib.leads.queue",
    "lib.deadlines",
    "lib.leads.canary",
    "lib.products.cache",
    "lib.products.entry",
    "lib.products.sources",
    "lib.monitoring.health",
    "lib.leads.consent",
    "lib.leads.lead",
    "lib.leads.redirects",
    "lib.monitoring.deployments",
    "lib.privacy.erasure",
    "lib.privacy.requests",
    "lib.privacy.redis_erasure",
    "lib.leads.validators",
    "lib.leads.admission",
    "lib.incidents.slack_store",
    "lib.incidents.redis_store",
    "lib.incidents.store",
    "lib.incidents.stores",
    "lib.incidents.fallback",
    "lib.incidents.notifier",
    "lib.incidents.traffic",
    "lib.incidents.model",
    "lib.leads.service",
    "lib.json_body",
    "lib.monitoring.secrets",
    "lib.language",
    "lib.leads.export",
    "lib.leads.repository",
    "lib.leads.reconciliation",
    "lib.leads.emails",
    "lib.leads.send_rate",
    "lib.leads.delivery_status",
    "lib.leads.mailed_leads",
    "lib.maintenance",
    "lib.monitoring.rollup",
    "lib.metrics",
    "lib.leads.outbox",
    "lib.leads.form_pages",
    "lib.leads.phone",
    "lib.products.query",
    "lib.products.catalogue",
    "lib.query_parameters",
    "lib.monitoring.backups",
    "lib.leads.reference",
    "lib.monitoring.canary_probe",
    "lib.monitoring.facts",
    "lib.monitoring.probes",
    "lib.monitoring.server_errors",
    "lib.monitoring.service_levels",
    "lib.monitoring.statement_check",
    "lib.privacy.retention",
    "lib.leads.worker",
    "lib.incidents.rules",
    "lib.vitals.samples",
    "lib.vitals.ingest",
    "lib.vitals.drain",
    "lib.vitals.rollup",
    "lib.vitals.query",
    "lib.vitals.report",
    "lib.vitals.quantile_sketch",
    "lib.products.snapshot",
    "lib.leads.spam",
    "lib.monitoring.status_page",
    "lib.privacy.data_subject",
    "lib.leads.submission",
    "lib.privacy.tombstones",
    "lib.monitoring.monitor",
    "lib.leads.whatsapp",
}
ADAPTERS = {
    "lib.cache": {"lib.http_client"},
    "lib.db": {"psycopg", "lib.runtime"},
    "lib.mail": {"lib.http_client"},
    "lib.error_reporting": {"sentry_sdk", "lib.log"},
    "lib.slack": set(),  # its API is one POST: the standard library's
    "lib.turnstile": {"lib.http_client"},
    "lib.encryption": {"nacl"},
}

ENDPOINT = May({"werkzeug", "lib.app", "lib.log", "lib.problems", *NOUNS})
NOUN = May({"lib.problems", *NOUNS}, for_types={"psycopg"})

TABLE: dict[str, May] = {
    # Functions. Settings by themselves only where no services are wanted.
    "api/health.py": May({*ENDPOINT.at_the_top, "lib.settings"}),
    "api/thanks.py": May({*ENDPOINT.at_the_top, "lib.settings"}),
    "api/leads.py": ENDPOINT,
    "api/leads_export.py": ENDPOINT,
    "api/leads_subject.py": ENDPOINT,
    "api/rum.py": ENDPOINT,
    "api/products.py": ENDPOINT,
    "api/cron/deliver.py": ENDPOINT,
    "api/cron/watch.py": ENDPOINT,
    "api/status.py": ENDPOINT,
    "api/cron/prune.py": ENDPOINT,
    # What we decide.
    **{f"{noun.replace('.', '/')}.py": NOUN for noun in NOUNS},
    "lib/incidents/alerting.py": May({*NOUN.at_the_top, "lib.log"}),
    "lib/monitoring/server_errors.py": NOUN._replace(inside_functions={"psycopg"}),
    "lib/monitoring/statement_check.py": NOUN._replace(
        inside_functions={"psycopg"}
    ),  # reads a server's words
    "lib/leads/send_rate.py": NOUN._replace(at_the_top={*NOUN.at_the_top, "lib.log"}),
    "lib/leads/validators.py": NOUN._replace(inside_functions={"email_validator"}),
    "lib/leads/phone.py": May({*NOUN.at_the_top, "phonenumbers"}),
    "lib/leads/spam.py": NOUN._replace(inside_functions={"disposable_email_domains"}),
    # One vendor each.
    **{
        f"{adapter.replace('.', '/')}.py": May(
            {*vendor, "lib.circuit_breaker", "lib.problems", *NOUNS}
        )
        for adapter, vendor in ADAPTERS.items()
    },
    "lib/mail.py": May(
        {"lib.http_client", "lib.circuit_breaker", "lib.problems", *NOUNS},
        inside_functions={"idna"},
    ),
    # The frame.
    "lib/__init__.py": May({"lib.runtime"}),
    **{f"lib/{room}/__init__.py": May(set()) for room in ROOMS},
    "lib/circuit_breaker.py": May(set()),
    "lib/app.py": May(
        {
            "werkzeug",
            "lib.language",
            "lib.log",
            "lib.maintenance",
            "lib.metrics",
            "lib.problems",
            "lib.runtime",
            "lib.settings",
        },
        inside_functions={"lib.services", "lib.incidents.alerting"},
        for_types={"_typeshed"},
    ),
    "lib/log.py": May({"lib.problems"}),
    "lib/problems.py": May(set()),
    "lib/services.py": May(
        {"lib.problems", "lib.settings"}, inside_functions={*ADAPTERS, "lib.incidents.messages"}
    ),
    "lib/http_client.py": May(set(), inside_functions={"certifi"}),
    "lib/runtime.py": May(set()),
    "lib/settings.py": May({"lib.log", "lib.problems"}),
}


class Import(NamedTuple):
    """module: `lib.<name>`, or a package's first name. place: a field of May."""

    module: str
    place: str
    line: int


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports_of(node: ast.AST, place: str = "at_the_top") -> Iterator[Import]:
    """Every import at or below `node`, with the place it stands in."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        place = "inside_functions"
    if isinstance(node, ast.Import):
        yield from (Import(_wanted(alias.name), place, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        named = "." * node.level + (node.module or "")
        here = ROOT / named.replace(".", "/")
        inside = (
            [f"{named}.{alias.name}" for alias in node.names]
            if named.split(".")[0] == "lib" and here.is_dir()
            else [named]
        )
        yield from (Import(_wanted(name), place, node.lineno) for name in inside)
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for typed in node.body:
            yield from imports_of(typed, "for_types")
        for other in node.orelse:
            yield from imports_of(other, place)
        return
    for child in ast.iter_child_nodes(node):
        yield from imports_of(child, place)


def _wanted(name: str) -> str:
    parts = name.split(".")
    return name if parts[0] == "lib" else parts[0]


def allowed(rule: May, place: str) -> set[str]:
    places = rule._fields[: rule._fields.index(place) + 1]
    return set().union(*(getattr(rule, each) for each in places))


def test_every_module_has_a_row_in_the_table() -> None:
    present = {relative(file) for file in FILES}
    new, gone = sorted(present - set(TABLE)), sorted(set(TABLE) - present)
    assert not new, (
        f"{', '.join(new)}: say in TABLE of {relative(Path(__file__))} what it may import. "
        "A noun imports no vendor, an adapter one, a function its nouns; see the design's rules."
    )
    assert not gone, f"{', '.join(gone)}: no longer there; take its row out of TABLE"


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_module_imports_only_what_its_row_allows(file: Path) -> None:
    rule = TABLE.get(relative(file), May(set()))
    strange = [
        f"line {found.line}: {found.module} ({found.place.replace('_', ' ')})"
        for found in imports_of(tree(file))
        if found.module not in sys.stdlib_module_names
        and found.module not in allowed(rule, found.place)
    ]
    assert not strange, f"{relative(file)} may not import {'; '.join(strange)}"


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_nothing_that_ships_imports_functions_tests_or_the_local_platform(file: Path) -> None:
    unshipped = {"api", "dev", "ops", "tests"}
    assert not [found for found in imports_of(tree(file)) if found.module in unshipped]


@pytest.mark.parametrize("file", sorted((ROOT / "ops").rglob("*.py")), ids=relative)
def test_ops_imports_nothing_of_the_local_platform(file: Path) -> None:
    assert not [found for found in imports_of(tree(file)) if found.module.split(".")[0] == "dev"]


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_only_settings_reads_the_environment(file: Path) -> None:
    readers = {"environ", "environb", "getenv", "getenvb"}
    reads = [
        node.lineno
        for node in ast.walk(tree(file))
        if (
            isinstance(node, ast.Attribute)
            and node.attr in readers
            and ast.unparse(node.value) == "os"
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any(alias.name in readers for alias in node.names)
        )
    ]
    assert not reads or relative(file) == "lib/settings.py", f"{relative(file)}: lines {reads}"


# A lead goes to the next store, and the next lead is drained, whatever one failed with.
# A thread hands on what it met.
CATCH_ALL = (
    "lib/app.py",
    "lib/leads/service.py",
    "lib/leads/queue.py",
    "lib/leads/worker.py",
    "lib/deadlines.py",
)


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_only_endpoint_and_the_way_of_a_lead_catch_everything(file: Path) -> None:
    catches = [
        node.lineno
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler) and _catches_all(node.type)
    ]
    assert not catches or relative(file) in CATCH_ALL, f"{relative(file)}: lines {catches}"


def _catches_all(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    named = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(ast.unparse(each) in ("Exception", "BaseException") for each in named)


STATEMENT = re.compile(
    r"\s*(with\s+\w+\s+as\b|insert\s+into\b|select\s|update\s+\w+.*\sset\s|delete\s+from\b)",
    re.DOTALL,
)


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_sql_is_a_plain_text_under_a_name_in_capitals(file: Path) -> None:
    module = tree(file)
    plain = {
        id(node.value)
        for node in module.body
        if isinstance(node, ast.Assign)
        and all(isinstance(target, ast.Name) and target.id.isupper() for target in node.targets)
    }
    built = [
        f"line {node.lineno}: {node.value.strip()[:40]}…"
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in plain and _is_statement(node.value)
    ]
    assert not built, (
        f"{relative(file)} has SQL that is built, or not a module's constant in capitals "
        f"(a test prepares those): {'; '.join(built)}"
    )


def _is_statement(text: str) -> bool:
    """A docstring begins with one capital; SQL is written in one case."""
    first = (text.split(maxsplit=1) or [""])[0]
    return first in (first.lower(), first.upper()) and bool(STATEMENT.match(text.lower()))


LOADED = """
import importlib.util, json, sys
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("function", sys.argv[2])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(function: str) -> set[str]:
    """The first names of every module in a fresh process that has imported the function."""
    answer = subprocess.run(
        [sys.executable, "-I", "-c", LOADED, str(ROOT), str(ROOT / function)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return {name.partition(".")[0] for name in json.loads(answer.stdout)}


VENDORS = {
    "disposable_email_domains",
    "email_validator",
    "httpx",
    "nacl",
    "phonenumbers",
    "psycopg",
    "requests",
    "resend",
    "sentry_sdk",
    "upstash_redis",
}


def test_health_imports_no_vendor() -> None:
    assert not loaded_by("api/health.py") & {*VENDORS, "pydantic"}


def test_the_thank_you_page_imports_no_vendor() -> None:
    assert not loaded_by("api/thanks.py") & {*VENDORS, "pydantic"}


def test_products_imports_no_vendor_before_its_memory_misses() -> None:
    assert not loaded_by("api/products.py") & {*VENDORS, "pydantic"}


@pytest.mark.parametrize(
    "function",
    [
        "api/leads.py",
        "api/leads_export.py",
        "api/leads_subject.py",
        "api/rum.py",
        "api/cron/deliver.py",
        "api/cron/prune.py",
    ],
)
def test_a_function_that_needs_vendors_imports_them_when_first_used(function: str) -> None:
    assert not loaded_by(function) & VENDORS
