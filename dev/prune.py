"""Leaves out of each built function what it cannot import: for `vercel deploy --prebuilt`.

The builder puts every library, pip and the whole tree into every function. Here each function's
imports are followed through the source, ours and the libraries', those inside functions too; what
is not reached stays out. The rules for what the source does not say are the tables below: a
library's file that is missing is an error at the very line that wants it, and tests run every
function from its pruned bundle.
"""

import ast
import json
import posixpath
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

VENDOR = "_vendor/"
RUNTIME = "vercel_runtime.vc_init"

# Found by name at run time, or by compiled code.
WHOLE = ("psycopg", "psycopg_binary", "phonenumbers.data")
BESIDE = {"nacl": ("_cffi_backend", "nacl._sodium"), "psycopg": ("psycopg_binary",)}

# Imported inside functions that we never call. What stands at a module's top is kept all the same.
LEFT_OUT = (
    "email_validator.deliverability",  # asks the DNS, only when told to
    "psycopg._dns",
    "psycopg.pq.pq_ctypes",  # for where there is no binary
    "psycopg.pq._pq_ctypes",
    "sentry_sdk.integrations",  # all switched off
    "werkzeug.debug",
)

# Imported at a module's top, in a branch for another kind of function or system.
NEVER = (
    "vercel_runtime._vendor",  # ASGI's server
    "vercel_runtime.asgi_server",
    "urllib3.contrib.emscripten",
)

# Loaded after an answer, if ever: compiled then, for a tenth of the bundle's size.
WITHOUT_BYTECODE = ("phonenumbers.data", "sentry_sdk", "urllib3")


def prune(output: Path) -> None:
    """Rewrite the file map of every function in a `.vercel/output` folder."""
    project = output.parents[1]
    for configuration in output.glob("functions/**/.vc-config.json"):
        config = json.loads(configuration.read_text())
        name = configuration.parent.relative_to(output / "functions").with_suffix("").as_posix()
        bundle = Bundle(project, config["filePathMap"], f"{name}.py")
        config["filePathMap"] = bundle.needed()
        configuration.write_text(json.dumps(config))


class Bundle:
    """One function's files: path in the function -> path in the project."""

    def __init__(self, project: Path, files: dict[str, str], entrypoint: str) -> None:
        self._project = project
        self._files = files
        self._entrypoint = entrypoint
        self._modules = {_module(path): path for path in files if _is_module(path)}

    def needed(self) -> dict[str, str]:
        modules = self._reached()
        kept = {self._modules[name] for name in modules}
        bare = {self._modules[name] for name in modules if _is_any(name, WITHOUT_BYTECODE)}
        kept |= {_bytecode(path) for path in kept - bare if path.endswith(".py")}
        kept |= {path for path in self._files if self._is_data_of(modules, path)}
        folders = {path.removeprefix(VENDOR).split("/")[0] for path in kept if _is_vendored(path)}
        kept |= {path for path in self._files if self._tells_of(folders, path)}
        return {inside: outside for inside, outside in self._files.items() if inside in kept}

    def _reached(self) -> set[str]:
        """Names of modules, from the function and the runtime on."""
        services = (
            _services(self._read("lib/services.py")) if "lib.services" in self._modules else {}
        )
        reached: set[str] = set()
        waiting = {_module(self._entrypoint), RUNTIME}
        used: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in reached or name not in self._modules:
                continue
            reached.add(name)
            path = self._modules[name]
            waiting |= self._beside(name)
            if not path.endswith(".py"):
                continue
            found = _imports(self._project / self._files[path], name, path.endswith("__init__.py"))
            if name == "lib.services":
                # An adapter only where somebody asks for it by its attribute.
                found = frozenset(one for one in found if one not in services.values())
            elif not _is_vendored(path):
                used |= _attributes(self._project / self._files[path])
            waiting |= found
            if "lib.services" in reached:
                waiting |= {module for attribute, module in services.items() if attribute in used}
        return reached

    def _beside(self, name: str) -> set[str]:
        top = name.partition(".")[0]
        parents = {name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)}
        whole = {
            one
            for part in WHOLE
            if _is_in(part, top) and (name == part or _is_in(part, name) or _is_in(name, part))
            for one in self._modules
            if _is_in(one, part) and not _is_any(one, LEFT_OUT)
        }
        return parents | whole | set(BESIDE.get(top, ()))

    def _is_data_of(self, modules: set[str], path: str) -> bool:
        """A file that is no module: a library's with its package, ours where it is named."""
        if _is_module(path) or path.endswith(".pyc"):
            return False
        if _is_vendored(path):
            package = posixpath.dirname(path.removeprefix(VENDOR)).replace("/", ".")
            return package in modules or package.removesuffix(".libs") in modules
        named = path.removeprefix("public/").removeprefix("lib/")
        return any(
            f'"{named}"' in self._read(self._modules[name])
            for name in modules
            if name.startswith("lib.")
        )

    def _tells_of(self, folders: set[str], path: str) -> bool:
        """A distribution's METADATA, by which libraries ask for their version, and licences."""
        folder, _, name = path.removeprefix(VENDOR).partition("/")
        if not folder.endswith(".dist-info") or not _is_vendored(path):
            return False
        if name != "METADATA" and not name.lower().startswith(("licen", "copying", "notice")):
            return False
        record = self._files.get(f"{VENDOR}{folder}/RECORD")
        listed = (self._project / record).read_text() if record else ""
        tops = {line.split(",")[0].split("/")[0] for line in listed.splitlines()}
        return bool(folders & {top for top in tops if not top.endswith(".dist-info")})

    def _read(self, path: str) -> str:
        return (self._project / self._files[path]).read_text("utf-8")


def _is_vendored(path: str) -> bool:
    return path.startswith(VENDOR)


def _is_module(path: str) -> bool:
    return path.endswith(".py") or (path.endswith(".so") and ".libs/" not in path)


def _module(path: str) -> str:
    """`_vendor/a/b.cpython-312-….so` -> a.b"""
    folder, _, name = path.removeprefix(VENDOR).rpartition("/")
    parts = [*folder.split("/"), name.split(".")[0]] if folder else [name.split(".")[0]]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _bytecode(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-312.pyc".lstrip("/")


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _is_any(name: str, packages: Iterable[str]) -> bool:
    return any(_is_in(name, one) for one in packages)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


@cache
def _imports(file: Path, name: str, is_package: bool) -> frozenset[str]:
    """Every module a file may import, wherever the import stands; not those for types."""
    package = name if is_package else name.rpartition(".")[0]
    found: set[str] = set()
    for node, at_the_top in _nodes(_tree(file)):
        names: set[str] = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (home, node.module or "") if part)
            names = {base, *(f"{base}.{alias.name}" for alias in node.names)}
        unwanted = NEVER if at_the_top else (*NEVER, *LEFT_OUT)
        found |= {one for one in names if not _is_any(one, unwanted)}
    return frozenset(found)


def _nodes(node: ast.AST, at_the_top: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    yield node, at_the_top
    at_the_top &= not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = list(node.orelse)
    for child in children:
        yield from _nodes(child, at_the_top)


@cache
def _attributes(file: Path) -> frozenset[str]:
    return frozenset(n.attr for n in ast.walk(_tree(file)) if isinstance(n, ast.Attribute))


def _services(source: str) -> dict[str, str]:
    """Attribute of Services -> the adapter's module that it loads."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("lib."):
                    found[node.name] = str(inner.module)
    return found
