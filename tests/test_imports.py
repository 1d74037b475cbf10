"""Who may import whom (docs: the design's layout), from the syntax tree: one test a rule.

A failure names the file, the line and the rule.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = sorted([*(ROOT / "lib").rglob("*.py"), *(ROOT / "api").rglob("*.py")])

PACKAGES = {"leads", "products", "vitals", "incidents", "monitoring", "privacy"}

# One library each, and httpx below it; their errors are translated there and nowhere else.
VENDOR_HELPERS = {
    "lib/cache.py": {"upstash_redis"},
    "lib/db.py": {"psycopg"},
    "lib/encryption.py": {"nacl"},
    "lib/error_reporting.py": {"sentry_sdk"},
    "lib/http_client.py": {"httpx"},
    "lib/mail.py": {"idna", "resend"},
    "lib/slack.py": set(),
    "lib/turnstile.py": set(),
}
# What a vendor helper may build on.
FOUNDATIONS = {"interfaces", "problems", "log", "http_client", "circuit_breaker", "deadlines"}

# What a package may import of the top level: no vendor helper, no settings, no werkzeug.
PACKAGES_MAY_IMPORT = {"interfaces", "problems", "log", "deadlines", "http_client",
                       "jakarta", "language", "json_body",
                       "maintenance", "metrics", "query_parameters"}  # fmt: skip
# Package -> the packages it may import.
ARROWS = {
    "leads": set(),
    "products": set(),
    "vitals": set(),
    "incidents": {"leads"},
    "monitoring": {"incidents", "leads", "privacy", "products"},
    "privacy": {"leads"},
}
PACKAGE_LIBRARIES = {
    "leads": {"disposable_email_domains", "email_validator", "phonenumbers", "pydantic_core"},
    "vitals": {"pydantic_core"},
}
FRAME = {"lib/__init__.py", "lib/app.py", "lib/services.py", "lib/settings.py", "lib/runtime.py"}


class Import(NamedTuple):
    """module: dotted. place: `top`, `function` or `types` (under TYPE_CHECKING)."""

    module: str
    place: str
    where: str

    @property
    def first(self) -> str:
        return self.module.partition(".")[0]

    @property
    def package(self) -> str:
        """The name below `lib`: a package, or a module of the top level."""
        return self.module.split(".")[1] if self.first == "lib" else ""


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports(file: Path) -> list[Import]:
    """Every import of a file but those of the standard library."""
    return [
        Import(module, place, f"{relative(file)}:{line} imports {module}")
        for module, place, line in walk(tree(file), "top")
        if module.partition(".")[0] not in sys.stdlib_module_names
    ]


def walk(node: ast.AST, place: str) -> Iterator[tuple[str, str, int]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        place = "function"
    if isinstance(node, ast.Import):
        yield from ((alias.name, place, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        is_folder = (ROOT / base.replace(".", "/")).is_dir()
        names = [f"{base}.{alias.name}" for alias in node.names] if is_folder else [base]
        yield from ((name, place, node.lineno) for name in names)
    is_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for child in ast.iter_child_nodes(node):
        yield from walk(child, "types" if is_types else place)


def package_of(file: Path) -> str | None:
    """The package of lib that a file is in; None for any other file."""
    parts = file.relative_to(ROOT).parts
    return parts[1] if parts[0] == "lib" and len(parts) > 2 else None


def files_of(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def no_offence(offences: list[str], rule: str) -> None:
    assert not offences, f"{rule}\n" + "\n".join(offences)


def test_every_package_has_an_entry_in_arrows() -> None:
    folders = {path.parent.name for path in (ROOT / "lib").glob("*/__init__.py")}
    assert folders == PACKAGES == set(ARROWS)


def test_a_package_imports_another_only_by_a_listed_arrow() -> None:
    offences = [
        statement.where
        for file in files_of("lib")
        if (package := package_of(file))
        for statement in imports(file)
        if statement.package in PACKAGES - {package} - ARROWS[package]
    ]
    no_offence(offences, "An arrow between packages is missing in ARROWS.")


def test_a_package_imports_no_frame_no_settings_and_no_vendor() -> None:
    offences = [
        statement.where
        for file in files_of("lib")
        if (package := package_of(file))
        for statement in imports(file)
        if statement.first != "lib" or statement.package not in PACKAGES | PACKAGES_MAY_IMPORT
        if statement.first not in PACKAGE_LIBRARIES.get(package, ())
        # A type, or what reads a server's errors, once there is one.
        if not (statement.first == "psycopg" and statement.place != "top")
    ]
    no_offence(offences, "A package imports the standard library and lib's plain helpers only.")


def test_a_vendor_helper_imports_its_library_and_no_package() -> None:
    offences = [
        statement.where
        for name, libraries in VENDOR_HELPERS.items()
        for statement in imports(ROOT / name)
        if statement.package not in FOUNDATIONS and statement.first not in libraries
    ]
    no_offence(offences, "Messages and e-mails are handed to a vendor helper as plain values.")


def test_a_plain_helper_imports_no_vendor_and_no_package() -> None:
    offences = [
        statement.where
        for file in files_of("lib")
        if package_of(file) is None and relative(file) not in {*VENDOR_HELPERS, *FRAME}
        for statement in imports(file)
        if statement.place != "types"
        and (statement.first != "lib" or statement.package not in FOUNDATIONS)
    ]
    no_offence(offences, "Only the frame and the vendor helpers import more than problems and log.")


def test_a_function_imports_the_frame_and_packages_and_no_vendor() -> None:
    unwanted = {Path(name).stem for name in VENDOR_HELPERS} | {"services", "runtime"}
    offences = [
        statement.where
        for file in files_of("api")
        for statement in imports(file)
        if statement.first not in ("lib", "werkzeug") or statement.package in unwanted
    ]
    no_offence(offences, "A function reaches vendors through `context.services`.")


@pytest.mark.parametrize(
    ("folder", "unwanted"),
    [
        ("lib", {"api", "dev", "ops", "tests"}),
        ("api", {"api", "dev", "ops", "tests"}),
        ("ops", {"api", "dev", "tests"}),
        ("dev", {"api", "ops", "tests"}),
    ],
)
def test_what_ships_imports_nothing_that_does_not(folder: str, unwanted: set[str]) -> None:
    """ops imports no dev, dev imports no ops; both import lib."""
    offences = [
        statement.where
        for file in files_of(folder)
        if "competitors" not in file.parts
        for statement in imports(file)
        if statement.first in unwanted
    ]
    no_offence(offences, f"{folder}/ imports none of {', '.join(sorted(unwanted))}.")


def test_no_two_modules_import_each_other_when_loaded() -> None:
    graph = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): {
            statement.module
            for statement in imports(file)
            if statement.place == "top" and statement.first == "lib"
        }
        for file in files_of("lib")
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_settings_reads_the_environment() -> None:
    readers = {"environ", "environb", "getenv", "getenvb"}
    offences = [
        f"{relative(file)}:{node.lineno} reads the environment"
        for file in SHIPPED
        if relative(file) != "lib/settings.py"
        for node in ast.walk(tree(file))
        if (isinstance(node, ast.Attribute) and node.attr in readers)
        if ast.unparse(node.value) == "os"
    ]
    no_offence(offences, "A variable of the environment is read by lib/settings.py.")


# A lead goes to the next store, and the next lead is drained, whatever one failed with; a thread
# hands on what it met.
MAY_CATCH_EVERYTHING = {"lib/app.py", "lib/deadlines.py", "lib/leads/queue.py",
                        "lib/leads/service.py", "lib/leads/worker.py"}  # fmt: skip


def test_only_the_frame_and_the_path_of_a_lead_catch_everything() -> None:
    offences = [
        f"{relative(file)}:{node.lineno} catches everything"
        for file in SHIPPED
        if relative(file) not in MAY_CATCH_EVERYTHING
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node.type)
    ]
    no_offence(offences, "An unexpected error is caught once, in lib/app.py.")


def catches_everything(caught: ast.expr | None) -> bool:
    types = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(
        caught_type is None or ast.unparse(caught_type) in ("Exception", "BaseException")
        for caught_type in types
    )
