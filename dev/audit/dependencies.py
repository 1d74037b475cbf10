"""Published advisories of what ships (requirements.txt), by pip-audit.

The rule a newcomer would break: pip-audit exits with 0 when its service knows no package at all, as
a mirror of PyPI may answer. So each service is asked about a release with known advisories first;
one that knows none of them is not asked about ours, and without any the result is NOT ASKED.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev.audit.outcome import Outcome

KNOWN_BAD = "urllib3==1.24.1"  # five advisories since 2019
TIMEOUT_S = 10

type Service = tuple[str, ...]
"""pip-audit's options that name a service."""

SERVICES: tuple[Service, ...] = (("-s", "pypi"), ("-s", "osv"))


class NotAsked(RuntimeError):
    """A service did not answer, or does not know a package; the text says which."""


def run(programs: Path, requirements: Path, services: Sequence[Service] = SERVICES) -> Outcome:
    """Of the first service that knows the release with advisories."""
    title = f"dependencies ({requirements.name}, pip-audit)"
    reasons = []
    for service in services:
        name = service[service.index("-s") + 1]
        try:
            if not _advisories(_audit(programs, KNOWN_BAD, service)):
                raise NotAsked(f"it knows nothing of {KNOWN_BAD}")
            report = _audit(programs, requirements.read_text("utf-8"), service)
        except NotAsked as error:
            reasons.append(f"{name}: {error}")
            continue
        figures = f"{len(report)} packages by {name}, {KNOWN_BAD} was refused first"
        return Outcome(title, figures, _advisories(report))
    return Outcome(
        title, "no package", not_asked=f"no advisory service answers ({'; '.join(reasons)})"
    )


def _audit(programs: Path, requirements: str, service: Service) -> list[dict[str, Any]]:
    """The packages with their advisories. NotAsked when one of them is not known."""
    with tempfile.TemporaryDirectory(prefix="pip-audit-") as folder:
        file = Path(folder, "requirements.txt")
        file.write_text(requirements, encoding="utf-8")
        command = [str(programs / "pip-audit"), "-r", str(file), "--no-deps", "--disable-pip"]
        command += ["-f", "json", "--progress-spinner", "off", "--cache-dir", folder]
        command += ["--timeout", str(TIMEOUT_S), *service]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise NotAsked("it does not answer") from None
    if unknown := [package["name"] for package in packages if "skip_reason" in package]:
        raise NotAsked(f"it does not know {', '.join(unknown)}")
    return packages


def _advisories(packages: list[dict[str, Any]]) -> list[str]:
    return [
        f"{package['name']} {package['version']}: {advisory['id']}, "
        f"fixed in {', '.join(advisory['fix_versions']) or 'no release'}"
        for package in packages
        for advisory in package["vulns"]
    ]
