"""The test run itself: a fixture nobody has, the results it leaves, the files it shares out."""

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops import compliance
from tests import conftest
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # each test is a run of pytest

type Run = Callable[..., tuple[int, str]]

# A project of its own, with this suite's hooks.
PROJECT = {
    "pytest.ini": "[pytest]\naddopts = -p tests.conftest\n",
    "test_whole.py": "def test_whole(tmp_path): ...\n",
}
OUTCOMES = """
import pytest

@pytest.fixture
def broken():
    yield
    assert False

def test_passes(): ...
def test_fails(): assert False
def test_is_skipped(): pytest.skip("not here")
def test_fails_afterwards(broken): ...
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run pytest on these files, beside a sound one: the status and what it printed."""

    def run(*words: str, **files: str) -> tuple[int, str]:
        for name, text in {**PROJECT, **{f"{name}.py": files[name] for name in files}}.items():
            (tmp_path / name).write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-c", "pytest.ini", "-q", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


MISSING = "def test_asks(nobody_has_this): ...\n"


@pytest.mark.parametrize("words", [(), ("-n", "2", "--dist", "loadfile")], ids=["alone", "spread"])
def test_a_missing_fixture_fails_the_run_before_any_other_test(
    run: Run, words: tuple[str, ...]
) -> None:
    status, output = run(*words, test_missing=MISSING)
    assert status == 1
    assert "fixture 'nobody_has_this' not found" in output
    assert "1 error" in output
    assert "passed" not in output


def test_the_quick_run_names_a_missing_fixture_too(run: Run) -> None:
    status, output = run("--quick", test_missing=MISSING)
    assert status == 1
    assert "fixture 'nobody_has_this' not found" in output


@pytest.mark.parametrize("words", [(), ("-n", "2", "--dist", "loadfile")], ids=["alone", "spread"])
def test_the_outcome_of_every_test_is_written_with_time_and_commit(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "results.json"
    run(*words, "--results", str(file), test_outcomes=OUTCOMES)
    results: dict[str, Any] = json.loads(file.read_text())
    assert results["passed"] == ["test_outcomes.py::test_passes", "test_whole.py::test_whole"]
    assert results["failed"] == [
        "test_outcomes.py::test_fails",
        "test_outcomes.py::test_fails_afterwards",
    ]
    assert results["skipped"] == ["test_outcomes.py::test_is_skipped"]
    assert len(results["commit"].rstrip("+")) in (0, 40)
    last_run = compliance.load_last_run(file)
    assert last_run is not None
    assert compliance.describe_test("test_whole.py", last_run).startswith("passed")
    assert compliance.describe_test("test_outcomes.py", last_run).startswith("FAILED")


def test_a_run_that_is_interrupted_leaves_the_results_of_the_one_before(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    file.write_text("the one before")
    status, _ = run("--results", str(file), test_stops="def test(): raise KeyboardInterrupt\n")
    assert status == 2
    assert file.read_text() == "the one before"


def test_the_files_that_are_begun_first_or_shared_out_exist() -> None:
    for name in (*(f"tests/{file}" for file in conftest.SLOW_FILES), *conftest.SHARED_OUT):
        assert (ROOT / name).is_file(), name


def test_every_file_with_a_browser_is_known_as_one() -> None:
    files = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "tests").rglob("test_*.py")
        if "\nfrom tests.fix_browser import" in file.read_text("utf-8")
    }
    assert files
    assert [name for name in files if not name.startswith(conftest.WITH_BROWSER)] == []


class Worker:
    """What xdist's scheduler uses of one."""

    def send_runtest_some(self, indexes: list[int]) -> None:
        """It runs nothing."""


def test_the_worker_beyond_the_cores_takes_a_browser_only_when_nothing_else_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    browser, light = "tests/browser/test_form.py", "tests/test_db.py"
    first, second, beyond = Worker(), Worker(), Worker()
    scheduler = conftest.ByFile.__new__(conftest.ByFile)
    scheduler.assigned_work = {first: {}, second: {}, beyond: {}}
    scheduler.registered_collections = {node: [browser, light] for node in scheduler.assigned_work}

    def taken(worker: Worker, *waiting: str) -> str:
        scheduler.workqueue = OrderedDict((scope, {scope: False}) for scope in waiting)
        scheduler._assign_work_unit(worker)
        scope: str = scheduler.assigned_work[worker].popitem()[0]
        return scope

    assert [taken(worker, browser, light) for worker in (first, second)] == [browser, browser]
    assert taken(beyond, browser, light) == light
    assert taken(beyond, browser) == browser
