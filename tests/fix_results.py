"""What `ops evidence` reads: the outcome of every test of the last whole run, its time and commit.

`python3 -m dev test` asks for it by `--results`; a run of chosen tests leaves the file as it is.
"""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A test has three phases; the worst of them is its outcome.
WORSE = {"passed": 0, "skipped": 1, "failed": 2}


class Results:
    """Hears of every phase of every test, wherever it runs, and writes the file at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self._outcomes.get(report.nodeid, "passed")
        self._outcomes[report.nodeid] = max(before, report.outcome, key=WORSE.__getitem__)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """A run that was interrupted has no outcome."""
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        results = {
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            **{outcome: self._with(outcome) for outcome in WORSE},
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
        partial.replace(self._file)

    def _with(self, outcome: str) -> list[str]:
        return sorted(name for name, its_own in self._outcomes.items() if its_own == outcome)


def _commit() -> str:
    """HEAD, with a plus sign where files differ from it; nothing where there is no repository."""
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return f"{head}+" if head and changes else head


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
