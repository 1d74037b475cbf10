"""Each requirement of the handbook, with the files that meet it and the tests that show it.

Files, not functions, since those are renamed; a test checks that every file exists.
"""

import json
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from lib.problems import DatabaseDown, NotConfigured
from lib.services import Services
from ops import command, connections, local_platform, steps
from ops.command import Args

TEST_RESULTS = local_platform.DATA / "test-results.json"
SELECT_LATEST_DRILLS = """
select distinct on (kind) kind, at, verdict from drills order by kind, at desc
"""


@dataclass(frozen=True, slots=True)
class Requirement:
    """text: the handbook's own words. drill: the kind of drill that shows it, if one does."""

    section: str
    text: str
    code: tuple[str, ...]
    tests: tuple[str, ...]
    drill: str | None = None


CATALOGUE, MONITORING = "1. Service catalogue", "2. Monitoring"
RESPONSE, RECOVERY = "3. Incident response", "4. Disaster recovery"

REQUIREMENTS = (
    Requirement(
        CATALOGUE,
        "Lead capture, /leads: < 1000 ms; Supabase, Resend",
        code=("api/leads.py", "lib/leads/service.py", "lib/monitoring/status_page.py"),
        tests=(
            "tests/leads/test_no_lead_lost.py",
            "tests/monitoring/test_status_page.py",
            "tests/test_metrics.py",
        ),
    ),
    Requirement(
        CATALOGUE,
        "Product list, /products: < 500 ms; Supabase, Redis (cache)",
        code=("api/products.py", "lib/products/cache.py", "lib/monitoring/status_page.py"),
        tests=(
            "tests/products/test_products_cache.py",
            "tests/monitoring/test_status_page.py",
            "tests/test_metrics.py",
        ),
    ),
    Requirement(
        CATALOGUE,
        "Health check, /health: < 200 ms; none",
        code=("api/health.py", "lib/monitoring/status_page.py"),
        tests=(
            "tests/test_imports.py",
            "tests/monitoring/test_status_page.py",
            "tests/test_metrics.py",
        ),
    ),
    Requirement(
        CATALOGUE,
        "Analytics, /rum: async; Vercel Analytics",
        code=("api/rum.py", "lib/vitals/drain.py"),
        tests=("tests/vitals/test_rum.py", "tests/vitals/test_rum_drain.py"),
    ),
    Requirement(
        MONITORING,
        "Errors: Sentry (DSN from configuration)",
        code=("lib/error_reporting.py", "lib/services.py"),
        tests=("tests/leads/test_leads.py", "tests/monitoring/test_monitor.py"),
    ),
    Requirement(
        MONITORING,
        "Vitals: Vercel Analytics (LCP, CLS, INP)",
        code=("public/assets/vitals.js", "lib/vitals/drain.py", "lib/vitals/samples.py"),
        tests=("tests/browser/test_web_vitals.py", "tests/vitals/test_rum_drain.py"),
    ),
    Requirement(
        MONITORING,
        "Uptime: UptimeRobot checking /api/health",
        code=("ops/incidents/monitors.toml", "ops/incidents/monitors.py"),
        tests=("tests/ops/incidents/test_monitors.py",),
    ),
    Requirement(
        MONITORING,
        "Sev1 (critical): global outage, lead form broken: alert Slack immediately",
        code=("lib/incidents/rules.py", "lib/incidents/alerting.py", "lib/slack.py"),
        tests=("tests/monitoring/test_monitor.py", "tests/incidents/test_game_day.py"),
        drill="alert",
    ),
    Requirement(
        MONITORING,
        "Sev2 (high): API over 5 s latency, error rate over 5 %",
        code=("lib/incidents/rules.py", "lib/incidents/traffic.py"),
        tests=("tests/incidents/test_rules.py",),
    ),
    Requirement(
        RESPONSE,
        "Detect (alert fires in Slack or Sentry)",
        code=("lib/monitoring/monitor.py", "lib/incidents/notifier.py", "lib/error_reporting.py"),
        tests=("tests/incidents/test_alerts.py", "tests/monitoring/test_monitor.py"),
        drill="alert",
    ),
    Requirement(
        RESPONSE,
        "Classify (Sev1 immediate, Sev2 next day)",
        code=("lib/incidents/rules.py", "lib/incidents/model.py"),
        tests=("tests/incidents/test_incidents.py",),
    ),
    Requirement(
        RESPONSE,
        "Contain (database down: enable maintenance mode by environment variable)",
        code=("lib/maintenance.py", "ops/incidents/maintenance.py"),
        tests=("tests/test_maintenance.py",),
    ),
    Requirement(
        RESPONSE,
        "Contain (bad deploy: Vercel instant rollback)",
        code=("ops/incidents/rollback.py", "ops/incidents/rollback_candidates.py"),
        tests=("tests/ops/incidents/test_rollback.py",),
    ),
    Requirement(
        RESPONSE,
        "Resolve (fix the root cause)",
        code=("lib/incidents/store.py", "ops/incidents/lifecycle.py"),
        tests=("tests/incidents/test_incidents.py",),
    ),
    Requirement(
        RESPONSE,
        "Review (post-mortem, RCA, required for Sev1)",
        code=("ops/incidents/postmortem.py", "supabase/migrations/20261124000001_on_call.sql"),
        tests=("tests/incidents/test_incidents.py",),
    ),
    Requirement(
        RECOVERY,
        "RPO < 24 h (daily backup) or < 1 min (PITR)",
        code=("ops/recovery/backup.py", "ops/vendors/supabase.py", "ops/recovery/journal.py"),
        tests=("tests/ops/recovery/test_recovery.py", "tests/monitoring/test_monitor.py"),
        drill="restore",
    ),
    Requirement(
        RECOVERY,
        "RTO < 60 min",
        code=("ops/recovery/plan.py", "ops/recovery/drill.py", "dev/bench/restore.py"),
        tests=("tests/ops/recovery/test_recovery.py",),
        drill="restore",
    ),
    Requirement(
        RECOVERY,
        "Restore from the latest valid Supabase snapshot",
        code=("ops/recovery/backup_sources.py", "ops/recovery/plan.py"),
        tests=("tests/ops/recovery/test_recovery.py",),
        drill="restore",
    ),
    Requirement(
        RECOVERY,
        "Key rotation: on a suspected leak or staff offboarding: regenerate"
        " SUPABASE_SERVICE_ROLE_KEY, update Vercel's environment, redeploy the latest"
        " commit",
        code=("ops/keys/rotation.py", "ops/keys/vendors.py", "ops/keys/database.py"),
        tests=("tests/ops/keys/test_rotation.py",),
    ),
    Requirement(
        RECOVERY,
        "Data deletion: logs deleted after 90 days",
        code=("lib/privacy/retention.py", "api/cron/prune.py"),
        tests=("tests/privacy/test_retention.py",),
    ),
    Requirement(
        RECOVERY,
        "Data deletion: on a user's request DELETE FROM leads WHERE email = $1",
        code=(
            "lib/privacy/erasure.py",
            "ops/privacy/tombstone_replay.py",
            "supabase/migrations/20261124000002_privacy.sql",
        ),
        tests=("tests/privacy/test_erasure.py", "tests/privacy/test_tombstone_replay.py"),
        drill="restore",
    ),
)


type Drills = dict[str, dict[str, Any]]  # the last of each kind: at, verdict


@command.root.command("evidence", examples=("python3 -m ops evidence",))
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=TEST_RESULTS,
    metavar="FILE",
    help="the results of the last whole run of the tests (default: this tree's)",
)
def show_requirements(services: Services, args: Args) -> int:
    """Each line of the handbook, with code, tests and last drill.

    Exit 1 when the last drill of a kind did not pass, or a test failed in the last run.
    """
    drills: Drills | None = None
    try:
        rows = services.database.run(lambda c: c.execute(SELECT_LATEST_DRILLS).fetchall())
        drills = {kind: {"at": at, "verdict": verdict} for kind, at, verdict in rows}
    except (DatabaseDown, NotConfigured) as error:
        reason = error if isinstance(error, NotConfigured) else connections.explain(error)
        print(f"the last drills are unknown: {reason}", file=sys.stderr)
    last_run = load_last_run(args.results)
    if args.json:
        command.print_json([
            {**asdict(requirement), "last_drill": (drills or {}).get(requirement.drill or ""),
             "last_tests": {test: _test_facts(test, last_run) for test in requirement.tests}}
            for requirement in REQUIREMENTS
        ])  # fmt: skip
    else:
        _print_requirements(drills, last_run)
    passed = {kind for kind, drill in (drills or {}).items() if drill["verdict"] == steps.PASS}
    needed = {requirement.drill for requirement in REQUIREMENTS} - {None}
    tests = {test for requirement in REQUIREMENTS for test in requirement.tests}
    has_failed = last_run is not None and bool(tests & last_run.failed)
    return 0 if needed <= passed and not has_failed else 1


@dataclass(frozen=True, slots=True)
class TestRun:
    """The last run of the tests: the files with a test that passed, and with one that failed.

    commit: with a plus sign where files differed from it; empty where it is unknown.
    """

    finished_at: datetime
    commit: str
    passed: frozenset[str]
    failed: frozenset[str]


def load_last_run(file: Path) -> TestRun | None:
    """None where no run left its results."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        passed, failed = (
            frozenset(node_id.partition("::")[0] for node_id in results[name])
            for name in ("passed", "failed")
        )
        finished_at = datetime.fromisoformat(results["finished_at"])
        return TestRun(finished_at, str(results.get("commit", "")), passed, failed)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def outcome_of(test: str, last_run: TestRun | None) -> str:
    """unknown, failed, passed or not run."""
    if last_run is None:
        return "unknown"
    if test in last_run.failed:
        return "failed"
    return "passed" if test in last_run.passed else "not run"


def _test_facts(test: str, last_run: TestRun | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"outcome": outcome_of(test, last_run), "at": None, "commit": None}
    if last_run is not None:
        facts |= {"at": last_run.finished_at, "commit": last_run.commit or None}
    return facts


def describe_test(test: str, last_run: TestRun | None) -> str:
    """What became of a file of tests in the last run, and when."""
    if last_run is None:
        return "unknown: no run of the tests left its results here"
    at, outcome = command.format_time(last_run.finished_at), outcome_of(test, last_run)
    if outcome == "failed":
        return f"FAILED {at}"
    return f"passed {at}" if outcome == "passed" else f"not run in the last run, {at}"


def _print_requirements(drills: Drills | None, last_run: TestRun | None) -> None:
    if last_run is not None:
        at = command.format_time(last_run.finished_at)
        commit = last_run.commit.replace("+", ", with uncommitted changes") or "unknown"
        print(f"last run of the tests: {at}, commit {commit}")
    section = ""
    for requirement in REQUIREMENTS:
        if requirement.section != section:
            section = requirement.section
            print(f"\n{section}")
        print(f"\n  {requirement.text}")
        for code in requirement.code:
            print(f"    code   {code}")
        for test in requirement.tests:
            print(f"    test   {test}: {describe_test(test, last_run)}")
        if requirement.drill is not None:
            print(f"    drill  {requirement.drill}: {_describe_last(requirement.drill, drills)}")


def _describe_last(kind: str, drills: Drills | None) -> str:
    if drills is None:
        return "unknown"
    drill = drills.get(kind)
    return f"{drill['verdict']} {command.format_time(drill['at'])}" if drill else "NEVER"
