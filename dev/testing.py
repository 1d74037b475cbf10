"""`python3 -m dev test`: lint, format, types, tests. With pytest's arguments: pytest alone.

Types are checked beside the tests. Files of tests are shared out among the workers, with a platform
for each: a test may not count on what another file left. A whole run leaves the outcome of
every test in .dev/test-results.json, for `ops evidence`.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dev import tools
from dev.bootstrap import DATA, ROOT, heartbeat
from dev.platform import postgres_binaries

_BIN = Path(sys.executable).parent
_BYTECODE = DATA / "bytecode"
_MOST_WORKERS = 6
_RESULTS = f"--results={DATA / 'test-results.json'}"


def main(arguments: list[str]) -> int:
    """The exit status: 0 when everything that ran was content."""
    options, for_pytest = _parser().parse_known_args(arguments)
    needs = _QUICK_NEEDS if options.quick else _NEEDS
    try:
        _install(needs)
    except tools.Missing as fault:
        print(fault, file=sys.stderr)
        return 1
    if options.quick:
        return _check(_quick_arguments(for_pytest))
    if options.times:
        return _repeat(options.times, for_pytest)
    return _run("Tests", _pytest(for_pytest)) if for_pytest else _check([_RESULTS])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m dev test",
        description="Lint, format, types and every test; with other arguments: pytest with them.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="about a minute: the tests that need no platform, and those of changed files",
    )
    parser.add_argument(
        "--times", type=int, metavar="N", help="run pytest N times and print each result"
    )
    return parser


# ------------------------------------------------------------------ what tests need


def _postgres(major: int) -> Callable[[], object]:
    return lambda: postgres_binaries.ensure(major)


_NEEDS: dict[str, Callable[[], object]] = {
    **{f"PostgreSQL {major}": _postgres(major) for major in postgres_binaries.TESTED},
    "the CLIs of Vercel and Supabase": tools.ensure_node_packages,
    "pgbouncer": tools.ensure_pooler,
    "Chromium": tools.ensure_browser,
    "LibreOffice": tools.ensure_office,
}
_QUICK_NEEDS = {name: _NEEDS[name] for name in _NEEDS if name.startswith("PostgreSQL")}


def _install(needs: dict[str, Callable[[], object]]) -> None:
    """Have everything there, with a line for what took longer than a look. tools.Missing."""
    for number, (name, ensure) in enumerate(needs.items(), 1):
        with heartbeat(f"[{number}/{len(needs)}] installing {name}"):
            ensure()


# ------------------------------------------------------------------ running


def _check(selected: Sequence[str]) -> int:
    """Lint and format first, as they take a second; types beside the tests."""
    started = time.monotonic()
    lint = {
        "Lint": [str(_BIN / "ruff"), "check"],
        "Format": [str(_BIN / "ruff"), "format", "--check"],
    }
    failed = [title for title, command in lint.items() if _run(title, command) != 0]
    types = subprocess.Popen(
        # Behind the tests, whose answers are measured: it takes the time they leave.
        ["nice", "-n", "15", str(_BIN / "mypy"), "--strict", "--cache-dir", str(DATA / "mypy")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _compile_functions()
        _rewrite_tests()
        if _run("Tests, and types beside them", _pytest([*_spread(), *selected])) != 0:
            failed.append("Tests")
        print("\n== Types ==", flush=True)
        print(types.communicate()[0], end="", flush=True)
    finally:
        types.kill()
    if types.returncode != 0:
        failed.append("Types")
    print(f"\n{time.monotonic() - started:.0f} s in all")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _repeat(times: int, for_pytest: Sequence[str]) -> int:
    """Run pytest so many times, each shown as a line; what failed is shown whole."""
    command = [*_pytest(for_pytest or [*_spread(), _RESULTS]), "-q"]
    failures = 0
    _compile_functions()
    for number in range(1, times + 1):
        started = time.monotonic()
        with heartbeat(f"run {number} of {times}", every_s=60):
            run = subprocess.run(
                command,
                cwd=ROOT,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        lines = run.stdout.splitlines() or [""]
        if run.returncode != 0:
            failures += 1
            print(run.stdout)
        took_s = time.monotonic() - started
        result = "passed" if run.returncode == 0 else "FAILED"
        print(f"run {number} of {times}: {result} in {took_s:.0f} s: {lines[-1]}", flush=True)
    print(f"{times - failures} of {times} runs passed")
    return 1 if failures else 0


def _environment() -> dict[str, str]:
    """Bytecode is kept in .dev: pytest's rewriting of 90 files takes each worker 10 s."""
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(_BYTECODE)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


def _pytest(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


def _spread() -> list[str]:
    """Whole files to each worker, in the order of tests/conftest.py: the long ones first."""
    # One more than there are cores, as tests wait for clocks; it takes no file with a browser.
    workers = min((os.cpu_count() or 1) + 1, _MOST_WORKERS)
    return ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]


def _compile_functions() -> None:
    """Leave bytecode beside what functions run, as none of them writes any: 0.1 s of each start.

    It is taken for a source of the same content alone, so no edit is hidden.
    """
    environ = {name: text for name, text in os.environ.items() if name != "PYTHONPYCACHEPREFIX"}
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
    subprocess.run([*command, "api", "lib"], cwd=ROOT, env=environ, check=False)


def _rewrite_tests() -> None:
    """Make the bytecode of a fresh clone's tests, a share on each core.

    Otherwise every worker would rewrite all of them, which takes it 15 s of a core.
    """
    if _BYTECODE.exists():
        return
    files = sorted(str(file) for file in (ROOT / "tests").rglob("test_*.py"))
    cores = os.cpu_count() or 1
    quiet = subprocess.DEVNULL
    shares = [
        # What fails here fails in the run too, and is shown there.
        subprocess.Popen(
            _pytest(["--collect-only", "-q", *files[core::cores]]),
            cwd=ROOT, env=_environment(), stdout=quiet, stderr=quiet,
        )
        for core in range(cores)
    ]  # fmt: skip
    with heartbeat("rewriting the tests' assertions"):
        for share in shares:
            share.wait()


def _run(title: str, command: list[str]) -> int:
    print(f"\n== {title} ==", flush=True)
    return subprocess.run(command, cwd=ROOT, env=_environment(), check=False).returncode


# ------------------------------------------------------------------ the quick run


def _quick_arguments(for_pytest: Sequence[str]) -> list[str]:
    """Those of tests/conftest.py's quick selection."""
    chosen = _tests_of(_changed())
    names = ", ".join(chosen) or "none"
    print(f"Quick: the tests that need no platform, and those of changed files ({names}).")
    print("Left out: every other test. `python3 -m dev test` runs them all.", flush=True)
    # These wait for nothing, so a worker a core is enough; the last -n counts.
    workers = str(os.cpu_count() or 1)
    return ["-n", workers, "--quick", *(f"--changed={name}" for name in chosen), *for_pytest]


def _changed() -> set[str]:
    """What differs from where this branch left main, or from HEAD where there is no main."""
    base = _git("merge-base", "HEAD", "main") or ["HEAD"]
    changed = _git("diff", "--name-only", base[0])
    return {*changed, *_git("ls-files", "--others", "--exclude-standard")}


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _tests_of(changed: set[str]) -> list[str]:
    """The changed files of tests, and those named after a changed module."""
    names = {f"test_{Path(name).stem}.py" for name in changed if name.endswith(".py")}
    files = (file.relative_to(ROOT).as_posix() for file in (ROOT / "tests").rglob("test_*.py"))
    return sorted(file for file in files if file in changed or Path(file).name in names)
