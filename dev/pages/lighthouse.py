"""Lighthouse's scores of the pages that visitors meet first, on a phone and on a desktop."""

import json
import os
import subprocess
import sys
from pathlib import Path

from dev import tools
from dev.pages import demo_site

PAGES = ("/", "/produk")
CATEGORIES = ("performance", "accessibility", "best-practices")
SCREENS = {"phone": (), "desktop": ("--preset=desktop",)}
LEAST = 95
_TIMEOUT_S = 180


def main(root: Path) -> int:
    """Print every score; 1 when one is below 95."""
    try:
        lighthouse, browser = tools.ensure_lighthouse(), tools.ensure_browser()
    except tools.Missing as error:
        print(error, file=sys.stderr)
        return 1
    is_good = True
    with demo_site(root) as site:
        for path in PAGES:
            for screen, options in SCREENS.items():
                report = _run(lighthouse, browser, site + path, options)
                is_good &= _print(f"{path} on a {screen}", report)
    return 0 if is_good else 1


def _run(
    lighthouse: Path, browser: Path, url: str, options: tuple[str, ...]
) -> dict[str, dict[str, dict[str, float | None]]]:
    command = [str(lighthouse), url, "--output=json", "--output-path=stdout", "--quiet",
               f"--only-categories={','.join(CATEGORIES)}",
               "--chrome-flags=--headless=new --no-sandbox --disable-gpu", *options]  # fmt: skip
    environ = {**os.environ, "CHROME_PATH": str(browser)}
    result = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
    )
    report: dict[str, dict[str, dict[str, float | None]]] = json.loads(result.stdout)
    return report


def _print(title: str, report: dict[str, dict[str, dict[str, float | None]]]) -> bool:
    """The scores, and what costs points; whether all are good."""
    scores = {name: round(100 * (report["categories"][name]["score"] or 0)) for name in CATEGORIES}
    figures = ", ".join(f"{name} {score}" for name, score in scores.items())
    print(f"{title}: {figures}", flush=True)
    is_good = min(scores.values()) >= LEAST
    if not is_good:
        for audit in report["audits"].values():
            if (score := audit.get("score")) is not None and score < 0.9:
                print(f"  {audit['title']}: {audit.get('displayValue', score)}")
    return is_good
