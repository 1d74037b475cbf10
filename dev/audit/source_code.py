"""Mistakes in the source: bandit's rules, and our own, run by semgrep (source_rules.yml).

Both look at what ships and at the operators' commands; dev/ and tests/ start servers and break
things on purpose.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev.audit.outcome import Outcome

FOLDERS = ("api", "lib", "ops")
_HERE = Path(__file__).parent
_BANDIT_CONFIG = _HERE / "bandit.yml"
RULES = _HERE / "source_rules.yml"


class ToolFailed(RuntimeError):
    """A tool ended without a report; the text holds what it printed."""


def run_bandit(programs: Path, root: Path, paths: Sequence[str] = FOLDERS) -> Outcome:
    """bandit on files and folders of `root`. ToolFailed."""
    command = [str(programs / "bandit"), "-q", "-r", *paths, "-c", str(_BANDIT_CONFIG)]
    report = _report([*command, "-f", "json"], root, {})
    findings = [
        f"{finding['test_id']} {finding['filename']}:{finding['line_number']}: "
        f"{finding['issue_text']}"
        for finding in report["results"]
    ]
    findings += [f"{each['filename']}: {each['reason']}" for each in report["errors"]]
    files = len(report["metrics"]) - 1  # beside its totals
    lines = report["metrics"]["_totals"]["loc"]
    return Outcome("bandit", f"{files} files, {lines} lines", findings)


def run_own_rules(programs: Path, root: Path, paths: Sequence[str] = FOLDERS) -> Outcome:
    """Our rules on files and folders of `root`, without a network. ToolFailed."""
    command = [str(programs / "semgrep"), "scan", "--config", str(RULES), "--json", "--quiet"]
    command += ["--metrics=off", "--disable-version-check", "--no-git-ignore", *paths]
    with tempfile.TemporaryDirectory(prefix="semgrep-") as folder:
        path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        report = _report(command, root, {"PATH": path, "HOME": folder})
    findings = [
        f"{finding['check_id'].rpartition('.')[2]} {finding['path']}:{finding['start']['line']}: "
        f"{finding['extra']['message']}"
        for finding in report["results"]
    ]
    findings += [str(each.get("message", each)) for each in report["errors"]]
    figures = f"{len(rule_names())} rules, {len(report['paths']['scanned'])} files"
    return Outcome("our own rules (semgrep)", figures, findings)


def rule_names() -> list[str]:
    lines = RULES.read_text("utf-8").splitlines()
    return [line.partition("- id: ")[2] for line in lines if line.startswith("  - id: ")]


def _report(command: list[str], root: Path, environ: dict[str, str]) -> dict[str, Any]:
    answer = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        report: dict[str, Any] = json.loads(answer.stdout)
    except ValueError:
        raise ToolFailed(
            f"{Path(command[0]).name}: {(answer.stderr or answer.stdout)[-2000:]}"
        ) from None
    return report
