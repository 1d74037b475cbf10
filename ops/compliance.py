"""The handbook's lines, each with what makes it true and what shows that it does.

A place is a file of this tree, or `file::name` for what stands in it; a test holds every one of
them to the tree. A line with no code or no test says so aloud, here and on the screen.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from typing import Any

from lib.problems import DatabaseDown, NotConfigured
from lib.services import Services
from ops import command, steps

SELECT_LATEST_DRILLS = """
select distinct on (kind) kind, at, verdict from drills order by kind, at desc
"""


@dataclass(frozen=True, slots=True)
class Requirement:
    """text: the handbook's own words. drill: the kind of exercise that shows it, if one does."""

    section: str
    text: str
    code: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    drill: str | None = None

    @property
    def has_evidence(self) -> bool:
        return bool(self.code and self.tests)


CATALOGUE, MONITORING = "1. Service catalogue", "2. Monitoring"
RESPONSE, RECOVERY = "3. Incident response", "4. Disaster recovery"
LATENCY_TESTS = (
    "tests/monitoring/test_status_page.py::test_the_catalogue_is_the_handbooks",
    "tests/test_metrics.py::test_a_promised_bound_is_an_edge_so_counting_decides_it_exactly",
)

REQUIREMENTS = (
    Requirement(
        CATALOGUE,
        "Lead capture, /leads: < 1000 ms; Supabase, Resend",
        (
            "api/leads.py",
            "lib/leads/service.py::persist",
            "lib/monitoring/status_page.py::SLA_BUCKETS",
        ),
        ("tests/leads/test_no_lead_lost.py", *LATENCY_TESTS),
    ),
    Requirement(
        CATALOGUE,
        "Product list, /products: < 500 ms; Supabase, Redis (cache)",
        ("api/products.py", "lib/products/cache.py", "lib/monitoring/status_page.py::SLA_BUCKETS"),
        ("tests/products/test_products_cache.py", *LATENCY_TESTS),
    ),
    Requirement(
        CATALOGUE,
        "Health check, /health: < 200 ms; none",
        ("api/health.py", "lib/monitoring/status_page.py::SLA_BUCKETS"),
        ("tests/test_imports.py::test_health_imports_no_vendor", *LATENCY_TESTS),
    ),
    Requirement(
        CATALOGUE,
        "Analytics, /rum: async; Vercel Analytics",
        ("api/rum.py", "lib/vitals/drain.py"),
        ("tests/vitals/test_rum.py", "tests/vitals/test_rum_drain.py"),
    ),
    Requirement(
        MONITORING,
        "Errors: Sentry (DSN from configuration)",
        ("lib/error_reporting.py::Reporter", "lib/services.py::Services"),
        ("tests/leads/test_leads.py", "tests/monitoring/test_monitor.py"),
    ),
    Requirement(
        MONITORING,
        "Vitals: Vercel Analytics (LCP, CLS, INP)",
        ("public/assets/vitals.js", "lib/vitals/drain.py", "lib/vitals/samples.py::METRICS"),
        ("tests/browser/test_web_vitals.py", "tests/vitals/test_rum_drain.py"),
    ),
    Requirement(
        MONITORING,
        "Uptime: UptimeRobot checking /api/health",
        ("ops/incidents/monitors.toml", "ops/incidents/monitors.py"),
        ("tests/ops/test_monitors.py::test_the_site_answers_as_the_monitors_want_it",),
    ),
    Requirement(
        MONITORING,
        "Sev1 (critical): global outage, lead form broken: alert Slack immediately",
        ("lib/incidents/rules.py::RULES", "lib/incidents/alerting.py::notify", "lib/slack.py"),
        (
            "tests/monitoring/test_monitor.py::"
            "test_a_form_that_refuses_leads_is_sev1_until_the_canary_gets_through",
            "tests/incidents/test_game_day.py",
        ),
        "alert",
    ),
    Requirement(
        MONITORING,
        "Sev2 (high): API over 5 s latency, error rate over 5 %",
        ("lib/incidents/traffic.py::SLOW_REQUEST_MS", "lib/incidents/traffic.py::MAX_ERROR_RATE"),
        (
            "tests/incidents/test_rules.py::test_a_slow_api_is_one_whose_p95_is_over_five_seconds",
            "tests/incidents/test_rules.py::test_an_error_rate_counts_where_there_are_enough_requests",
        ),
    ),
    Requirement(
        RESPONSE,
        "Detect (alert fires in Slack or Sentry)",
        (
            "lib/monitoring/monitor.py::run",
            "lib/incidents/notifier.py::notify_due",
            "lib/error_reporting.py::Reporter",
        ),
        ("tests/incidents/test_alerts.py", "tests/monitoring/test_monitor.py"),
        "alert",
    ),
    Requirement(
        RESPONSE,
        "Classify (Sev1 immediate, Sev2 next day)",
        ("lib/incidents/rules.py::RULES", "lib/incidents/model.py"),
        (
            "tests/incidents/test_incidents.py::test_sev2_waits_for_the_next_working_morning_in_jakarta",
        ),
    ),
    Requirement(
        RESPONSE,
        "Contain (database down: enable maintenance mode by environment variable)",
        ("lib/maintenance.py::WindowCache", "ops/incidents/maintenance.py"),
        (
            "tests/test_maintenance.py::test_the_handbooks_variable_switches_a_deployment",
            "tests/test_maintenance.py::"
            "test_a_lead_is_queued_answered_202_and_stored_when_it_is_over",
        ),
    ),
    Requirement(
        RESPONSE,
        "Contain (bad deploy: Vercel instant rollback)",
        ("ops/incidents/rollback.py", "ops/incidents/rollback_candidates.py"),
        (
            "tests/ops/test_rollback.py::"
            "test_it_leads_production_to_the_deployment_before_and_says_how_to_undo_it",
            "tests/ops/test_rollback.py::test_a_rollback_that_never_arrives_is_not_called_done",
        ),
    ),
    Requirement(
        RESPONSE,
        "Resolve (fix the root cause)",
        ("lib/incidents/store.py", "ops/incidents/lifecycle.py"),
        ("tests/incidents/test_incidents.py::test_a_step_that_does_not_follow_is_refused",),
    ),
    Requirement(
        RESPONSE,
        "Review (post-mortem, RCA, required for Sev1)",
        ("ops/incidents/postmortem.py", "supabase/migrations/20261124000001_on_call.sql"),
        ("tests/incidents/test_incidents.py::test_a_sev1_without_a_whole_rca_is_not_closed",),
    ),
    Requirement(
        RECOVERY,
        "RPO < 24 h (daily backup) or < 1 min (PITR)",
        (
            "ops/recovery/backup.py::take",
            "ops/vendors/supabase.py::Project",
            "ops/recovery/journal.py::replay",
        ),
        (
            "tests/ops/test_recovery.py::"
            "test_after_a_disaster_nothing_accepted_is_missing_and_nobody_is_mailed_twice",
            "tests/ops/test_recovery.py::test_a_drill_on_a_backup_over_a_day_old_fails_its_rpo",
            "tests/monitoring/test_monitor.py::"
            "test_ages_count_from_its_first_run_where_there_never_was_a_backup",
        ),
        "restore",
    ),
    Requirement(
        RECOVERY,
        "RTO < 60 min",
        (
            "ops/recovery/plan.py::Restore",
            "ops/recovery/drill.py::MAX_RTO_S",
            "dev/bench/restore.py",
        ),
        (
            "tests/ops/test_recovery.py::"
            "test_a_drill_restores_replays_and_gets_a_lead_through_with_the_clock_running",
        ),
        "restore",
    ),
    Requirement(
        RECOVERY,
        "Restore from the latest valid Supabase snapshot",
        ("ops/recovery/backup_sources.py::choose_source", "ops/recovery/plan.py::Restore"),
        ("tests/ops/test_recovery.py::test_a_restore_by_supabase_walks_the_same_way",),
        "restore",
    ),
    Requirement(
        RECOVERY,
        "Key rotation: on a suspected leak or staff offboarding: regenerate"
        " SUPABASE_SERVICE_ROLE_KEY, update Vercel's environment, redeploy the latest commit",
        ("ops/keys/rotation.py", "ops/keys/vendors.py", "ops/keys/database.py"),
        (
            "tests/ops/test_rotation.py::"
            "test_a_key_is_rotated_under_traffic_and_the_old_one_fails_afterwards",
            "tests/ops/test_rotation.py::"
            "test_after_a_leak_the_vendors_key_is_revoked_first_and_a_sev1_opened",
        ),
    ),
    Requirement(
        RECOVERY,
        "Data deletion: logs deleted after 90 days",
        ("lib/privacy/retention.py", "api/cron/prune.py"),
        (
            "tests/privacy/test_retention.py::"
            "test_a_lead_loses_its_origin_after_90_days_and_keeps_the_rest",
            "tests/privacy/test_retention.py::"
            "test_whatever_holds_something_of_a_person_has_a_class_that_ends_it",
        ),
    ),
    Requirement(
        RECOVERY,
        "Data deletion: on a user's request DELETE FROM leads WHERE email = $1",
        (
            "lib/privacy/erasure.py",
            "lib/privacy/replay.py::reapply",
            "supabase/migrations/20261124000002_privacy.sql",
        ),
        (
            "tests/privacy/test_erasure.py::test_the_handbooks_own_statement_goes_everywhere",
            "tests/privacy/test_erasure.py::test_a_restore_does_not_bring_an_erased_person_back",
        ),
        "restore",
    ),
)


def show_requirements(services: Services, args: argparse.Namespace) -> int:
    """Each line of the handbook: the code, the tests, the last drill that show it.

    Exit 1 when a line has nothing to show, or the last drill of its kind did not pass.
    """
    drills: dict[str, dict[str, Any]] | None = None
    try:
        rows = services.database.run(lambda c: c.execute(SELECT_LATEST_DRILLS).fetchall())
        drills = {kind: {"at": at, "verdict": verdict} for kind, at, verdict in rows}
    except (DatabaseDown, NotConfigured) as fault:
        print(f"the last drills are unknown: {fault or 'no database'}", file=sys.stderr)
    held = [
        {**asdict(line), "last_drill": (drills or {}).get(line.drill or "")}
        for line in REQUIREMENTS
    ]
    if args.json:
        command.print_json(held)
    else:
        _print_requirements(drills)
    well = all(line.has_evidence and _drill_passed(line, drills) for line in REQUIREMENTS)
    return 0 if well else 1


def _drill_passed(line: Requirement, drills: dict[str, dict[str, Any]] | None) -> bool:
    last = (drills or {}).get(line.drill or "")
    return line.drill is None or (last is not None and last["verdict"] == steps.PASS)


def _print_requirements(drills: dict[str, dict[str, Any]] | None) -> None:
    section = ""
    for line in REQUIREMENTS:
        if line.section != section:
            section = line.section
            print(f"\n{section}")
        print(f"\n  {line.text}")
        print(f"    code   {', '.join(line.code) or 'NOTHING YET'}")
        print(f"    tests  {', '.join(line.tests) or 'NOTHING YET'}")
        if line.drill is not None:
            print(f"    drill  {line.drill}: {_describe_last_drill(line.drill, drills)}")


def _describe_last_drill(kind: str, drills: dict[str, dict[str, Any]] | None) -> str:
    if drills is None:
        return "unknown"
    last = drills.get(kind)
    return f"{last['verdict']}, {last['at']:%Y-%m-%d %H:%M} UTC" if last else "NEVER"


def add_commands(areas: Any) -> None:
    command.command(areas, "evidence", show_requirements, "python3 -m ops evidence", as_json=True)
