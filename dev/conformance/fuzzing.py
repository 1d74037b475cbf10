"""schemathesis against every operation of public/openapi.json, with the tokens that open it.

It runs from an environment of its own (`.dev/schemathesis`), pinned in schemathesis.txt. Which of
its checks are off, and why, says schemathesis.toml; any answer of 5xx is a failure.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dev import tools
from dev.build.openapi import FILE

_PINNED = Path(__file__).with_name("schemathesis.txt")
_CONFIG = Path(__file__).with_name("schemathesis.toml")
_TOKENS = ("CRON_SECRET", "HEALTH_CHECK_TOKEN", "LEADS_ADMIN_TOKEN")


def run(
    root: Path, url: str, environ: Mapping[str, str], examples: int, seed: int, *options: str
) -> dict[str, Any]:
    """schemathesis' report on the site at `url`. options: more of its command line."""
    document = json.loads((root / FILE).read_text("utf-8"))
    operations = sum("responses" in o for item in document["paths"].values() for o in item.values())
    with tempfile.TemporaryDirectory(prefix="schemathesis-") as folder:
        file = Path(folder) / "report.json"
        command = [str(ensure()), "--config-file", str(_CONFIG), "run", str(root / FILE)]
        command += ["--url", url, "--seed", str(seed), "--continue-on-failure", "--no-color"]
        command += ["--max-examples", str(max(1, examples // operations))]
        command += ["--suppress-health-check", "all", "--generation-database", "none"]
        command += ["--report", "json", "--report-json-path", str(file), *options]
        answer = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {name: environ[name] for name in _TOKENS},
            capture_output=True,
            text=True,
            check=False,
        )
        if not file.exists():
            raise RuntimeError(answer.stdout[-2000:] + answer.stderr[-2000:])
        report: dict[str, Any] = json.loads(file.read_text("utf-8"))
    report["output"] = answer.stdout
    return report


def render(report: Mapping[str, Any]) -> str:
    cases, operations = report["test_cases"], report["operations"]
    failures = sum(failure["count"] for failure in report["failures"])
    lines = [
        f"{cases['generated']} requests of {operations['tested']} operations in "
        f"{report['running_time']:.0f} s (seed {report['seed']}): {failures} failures"
    ]
    lines += [
        f"  {failure['title']}: {', '.join(failure['operations'])}"
        for failure in report["failures"]
    ]
    return "\n".join(lines + ([report["output"]] if failures else []))


def ensure() -> Path:
    """schemathesis' executable, installed at its first use. tools.Missing when it cannot be."""
    return tools.ensure_python_tools(_PINNED, "schemathesis") / "st"
