"""When somebody is woken, on a simulated clock: the table of rules, and thirty quiet days."""

import random
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lib.incidents import rules
from lib.incidents.rules import Facts, MinuteCounts

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def broken(**facts: Any) -> list[tuple[str, str]]:
    """(severity, rule) of what these facts break."""
    return [(finding.severity, finding.rule) for finding in rules.evaluate(Facts(now=NOW, **facts))]


def traffic(service: str, n: int, errors: int = 0, slow: int = 0, age: int = 1) -> Any:
    return {service: {NOW - timedelta(minutes=age): MinuteCounts(n, errors, slow)}}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, []),
        # Sev1: the handbook's global outage and broken lead form.
        ({"health_fault": "down"}, [("sev1", "health_failing")]),
        ({"status_fault": "down"}, [("sev1", "status_failing")]),
        ({"canary_fault": "refused"}, [("sev1", "canary_failing")]),
        ({"database_fault": "down"}, [("sev1", "database_down")]),
        ({"dead_letters": 1}, [("sev1", "dead_letters")]),
        ({"queue_dead_letters": 1}, [("sev1", "leads_set_aside")]),
        ({"missing_leads": 1}, [("sev1", "ledger_gap")]),
        ({"oldest_queued_age": 25 * HOUR}, [("sev1", "queue_very_old"), ("sev2", "queue_old")]),
        ({"backup_age": 49 * HOUR}, [("sev1", "backup_very_old"), ("sev2", "backup_old")]),
        # Sev2: the next working morning.
        ({"redis_fault": "down"}, [("sev2", "redis_down")]),
        ({"backup_age": 27 * HOUR}, [("sev2", "backup_old")]),
        ({"backup_age": 25 * HOUR}, []),
        ({"oldest_queued_age": 20 * HOUR}, [("sev2", "queue_old")]),
        ({"oldest_queued_age": HOUR / 10}, []),
        ({"oldest_mail_age": HOUR / 3}, [("sev2", "mail_delayed")]),
        ({"drill_age": 8 * DAY}, [("sev2", "drill_old")]),
        ({"overdue_keys": ("RESEND_API_KEY",)}, [("sev2", "key_old")]),
        ({"overdue_requests": ("a",)}, [("sev2", "request_overdue")]),
    ],
)
def test_a_fact_breaks_its_rule(facts: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert broken(**facts) == expected


@pytest.mark.parametrize(
    ("n", "errors", "expected"),
    [
        (3, 1, []),  # 33 %, and no news
        (20, 4, []),  # 20 %, but too few to say
        (100, 5, []),  # exactly 5 % is not over it
        (100, 6, []),  # chance makes 6 out of 5 one time in three
        (100, 11, [("sev2", "errors_over_5_percent")]),
        (1000, 66, [("sev2", "errors_over_5_percent")]),
        (20, 10, [("sev1", "most_requests_failing"), ("sev2", "errors_over_5_percent")]),
    ],
)
def test_an_error_rate_counts_where_there_are_enough_requests(
    n: int, errors: int, expected: list[tuple[str, str]]
) -> None:
    assert broken(traffic=traffic("products", n, errors)) == expected


def test_a_slow_api_is_one_whose_p95_is_over_five_seconds() -> None:
    assert broken(traffic=traffic("products", 100, slow=5)) == []
    assert broken(traffic=traffic("products", 100, slow=11)) == [("sev2", "slow_over_5_seconds")]
    assert broken(traffic=traffic("products", 4, slow=4)) == []


def test_three_failed_leads_are_a_broken_form_however_few_there_are() -> None:
    assert broken(traffic=traffic("leads", 2, 2)) == []
    assert broken(traffic=traffic("leads", 3, 3)) == [("sev1", "leads_failing")]
    assert broken(traffic=traffic("leads", 7, 3)) == []


def test_requests_before_the_window_do_not_count() -> None:
    assert broken(traffic=traffic("products", 100, 50, age=31)) == []
    assert broken(traffic=traffic("products", 100, 50, age=11)) == [], "over for ten minutes"


def test_an_outage_starts_at_the_end_of_its_first_bad_minute() -> None:
    bad = {NOW - timedelta(minutes=age): MinuteCounts(20, 15, 0) for age in (1, 2, 4)}
    good = {NOW - timedelta(minutes=age): MinuteCounts(20, 0, 0) for age in (3, 5, 6)}
    [finding, *_] = rules.evaluate(Facts(now=NOW, traffic={"products": {**bad, **good}}))
    assert finding.started_at == NOW - timedelta(minutes=4) + timedelta(seconds=59)


@pytest.mark.parametrize(
    "before",
    [
        {"leads": {NOW - timedelta(minutes=9): MinuteCounts(1, 1, 0)}},  # an error, long over
        {"products": {NOW - timedelta(minutes=2): MinuteCounts(9, 1, 0)}},  # another service's
        {"rum": {NOW - timedelta(minutes=3): MinuteCounts(9, 0, 1)}},  # slow, and no error
    ],
)
def test_unrelated_or_older_errors_do_not_move_its_start(before: Any) -> None:
    began = {NOW - timedelta(minutes=1): MinuteCounts(3, 3, 0)}
    merged = {**before, "leads": {**before.get("leads", {}), **began}}
    [finding] = rules.evaluate(Facts(now=NOW, traffic=merged))
    assert (finding.rule, finding.started_at) == ("leads_failing", NOW - timedelta(seconds=1))


@pytest.mark.parametrize(
    ("minute", "facts", "effect"),
    [
        (MinuteCounts(4, 0, 0), {}, ""),  # before it went down
        (MinuteCounts(4, 0, 0, 3), {}, "queued"),
        (MinuteCounts(4, 0, 0, 4), {"redis_fault": "down"}, "mailed"),
        (MinuteCounts(4, 3, 0, 1), {}, "refused"),
        (MinuteCounts(4, 1, 0, 3), {}, "queued"),
        (None, {}, ""),
        (None, {"canary_effect": "refused"}, "refused"),
    ],
)
def test_the_effect_on_leads_follows_the_last_answers(
    minute: MinuteCounts | None, facts: dict[str, Any], effect: str
) -> None:
    lately = {} if minute is None else {NOW - timedelta(minutes=1): minute}
    long_ago = {NOW - timedelta(minutes=4): MinuteCounts(9, 1, 0)}
    down = Facts(now=NOW, database_fault="down", traffic={"leads": lately | long_ago}, **facts)
    [finding] = [each for each in rules.evaluate(down) if each.rule == "database_down"]
    assert finding.lead_effect == effect


def test_a_postgres_that_refuses_some_leads_still_stores_the_others() -> None:
    lately = {"leads": {NOW - timedelta(minutes=1): MinuteCounts(4, 0, 0)}}
    facts = Facts(now=NOW, store_fault="no column", traffic=lately)
    [finding] = rules.evaluate(facts)
    assert (finding.rule, finding.lead_effect) == ("store_refused", ""), "they are from before"
    [finding] = rules.evaluate(replace(facts, canary_effect="stored"))
    assert finding.lead_effect == "stored"


def test_leads_that_wait_for_a_person_are_counted_in_the_alert() -> None:
    flood, others = rules.evaluate(Facts(now=NOW, leads_in_flood=40, leads_in_review=2))
    assert (flood.rule, flood.severity) == ("leads_in_flood", "sev1")
    assert flood.description.startswith("40 leads came above the ceiling")
    assert (others.rule, others.severity) == ("leads_in_review", "sev2")
    assert others.description.startswith("2 leads wait")


def test_maintenance_mutes_what_it_causes_and_never_a_lost_lead_or_an_old_backup() -> None:
    assert broken(maintenance=True, database_fault="down", health_fault="down") == []
    assert broken(maintenance=True, dead_letters=1) == [("sev1", "dead_letters")]
    assert broken(maintenance=True, backup_age=27 * HOUR) == [("sev2", "backup_old")]
    muted = {rule.name for rule in rules.RULES if not rule.during_maintenance}
    assert not muted & {"lead_not_kept", "lead_not_stored_nor_queued"}


def test_a_queue_that_waits_for_postgres_is_not_a_second_alert() -> None:
    assert broken(database_fault="down", oldest_queued_age=HOUR) == [("sev1", "database_down")]


def test_every_rule_has_a_section_in_the_runbook() -> None:
    from tests.conftest import ROOT

    runbook = (ROOT / "ops" / "README.md").read_text(encoding="utf-8")
    for rule in rules.RULES:
        assert f"\n### {rule.name}\n" in runbook, rule.name


# --- Quiet days.

# A weekday of a small wholesaler's site, by hour in Jakarta: requests a minute.
SHAPE = [0.1] * 6 + [0.4, 0.8, 1.2, 1.6, 1.6, 1.4, 1.3, 1.4, 1.4, 1.3, 1.2, 1.1, 1.2, 1.4, 1.2,
                     0.8, 0.4, 0.2]  # fmt: skip
USUAL = {"products": 6.0, "rum": 4.0, "leads": 0.12, "health": 0.2}


def quiet_minute(draw: random.Random, hour: int, error_rate: float) -> dict[str, MinuteCounts]:
    """One minute's answers: Poisson traffic, a few errors, rare answers over 5 s, retries."""
    counts = {}
    for service, mean in USUAL.items():
        n = _poisson(draw, mean * SHAPE[hour])
        errors = sum(draw.random() < error_rate for _ in range(n))
        # A visitor whose request failed tries again, and half of them fail again.
        again = sum(draw.random() < 0.5 for _ in range(errors))
        slow = sum(draw.random() < 0.002 for _ in range(n))
        if n:
            counts[service] = MinuteCounts(n + errors, errors + again, slow)
    return counts


def _poisson(draw: random.Random, mean: float) -> int:
    count, left = 0, draw.expovariate(1.0)
    while left < mean:
        count += 1
        left += draw.expovariate(1.0)
    return count


def false_alerts(days: int, seed: int, error_rate: float) -> list[str]:
    """The rules broken in so many days of nothing wrong, a look every minute."""
    draw = random.Random(seed)
    traffic_now: dict[str, dict[datetime, MinuteCounts]] = defaultdict(dict)
    alerts, open_now = [], set[str]()
    start = datetime(2026, 11, 1, tzinfo=UTC)
    for minute in range(days * 1440):
        now = start + timedelta(minutes=minute)
        for service, counts in quiet_minute(draw, (now.hour + 7) % 24, error_rate).items():
            traffic_now[service][now] = counts
        for minutes in traffic_now.values():
            minutes.pop(now - timedelta(minutes=31), None)
        broken_rules = {
            finding.rule for finding in rules.evaluate(Facts(now=now, traffic=traffic_now))
        }
        alerts += sorted(broken_rules - open_now)
        open_now = broken_rules
    return alerts


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_thirty_quiet_days_with_the_noise_of_small_numbers_raise_no_false_alert(seed: int) -> None:
    assert false_alerts(30, seed, error_rate=0.002) == []


@pytest.mark.slow
def test_even_with_one_request_in_a_hundred_failing_the_mornings_are_quiet() -> None:
    alerts = false_alerts(30, 4, error_rate=0.01)
    assert len(alerts) <= 3
    assert "most_requests_failing" not in alerts


def test_an_outage_at_any_hour_of_the_day_is_found_by_the_traffic_or_the_probes() -> None:
    for hour in range(24):
        draw = random.Random(hour)
        traffic_now: dict[str, dict[datetime, MinuteCounts]] = {}
        for age in range(6):
            for service, counts in quiet_minute(draw, hour, 1.0).items():
                traffic_now.setdefault(service, {})[NOW - timedelta(minutes=age)] = counts
        facts = Facts(now=NOW, traffic=traffic_now, health_fault="/api/health answers 500")
        assert rules.evaluate(facts)[0].severity == "sev1"
