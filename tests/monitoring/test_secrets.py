"""Keys in use: known by fingerprints that deployments record; and how old they are."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.monitoring import secrets
from lib.services import Services
from lib.settings import Settings, all_settings
from ops import cli
from ops.keys import commands, inventory
from ops.keys.key_file import KeyFile
from ops.settings import OperatorSettings
from tests.conftest import eventually
from tests.ops.keys.test_rotation import QUICK, see

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

NOW = datetime(2026, 11, 24, 7, 0, tzinfo=UTC)
PEPPER = "a pepper for these tests alone"


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    with contextlib.closing(Services(Settings(platform.environment))) as services:
        yield services


# ------------------------------------------------------------------ the inventory


def test_every_secret_variable_has_a_row() -> None:
    previous = {key.previous_variable for key in inventory.SECRETS if key.previous_variable}
    secret = {setting.name for setting in all_settings(OperatorSettings) if setting.secret}
    without = secret - set(inventory.BY_NAME) - previous
    assert not without, (
        f"ops/keys/inventory.py: what is {', '.join(sorted(without))} for, and how old may it get?"
    )


def test_where_two_values_are_accepted_the_previous_one_has_a_variable() -> None:
    names = {setting.name for setting in all_settings(OperatorSettings)}
    for key in inventory.SECRETS:
        assert not key.previous_variable or key.name not in names or key.previous_variable in names


def test_every_secret_can_be_rotated() -> None:
    assert all(
        key.name in commands.TYPES_BY_NAME or key.overlap in commands.TYPES_BY_OVERLAP
        for key in inventory.SECRETS
    )
    assert all(key.max_age_days > 0 and key.purpose and key.owner for key in inventory.SECRETS)


# ------------------------------------------------------------------ fingerprints


def test_a_fingerprint_is_twelve_hex_digits_and_depends_on_the_pepper() -> None:
    digest = secrets.fingerprint(PEPPER, "a value")
    assert re.fullmatch(r"[0-9a-f]{12}", digest)
    assert digest != secrets.fingerprint("another", "a value")
    assert digest != secrets.fingerprint(PEPPER, "another")


def test_each_part_of_a_list_and_the_previous_value_count() -> None:
    pairs = secrets.fingerprints(
        PEPPER,
        {
            "LEADS_ENCRYPTION_KEY": "one, two",
            "CRON_SECRET": "new",
            "CRON_SECRET_PREVIOUS": "old",
            "DATABASE_DIRECT_URL": "the owner's, which no deployment has",
            "SITE_URL": "no secret",
        },
    )
    values = {("LEADS_ENCRYPTION_KEY", "one"), ("LEADS_ENCRYPTION_KEY", "two"),
              ("CRON_SECRET", "new"), ("CRON_SECRET", "old")}  # fmt: skip
    assert pairs == {(name, secrets.fingerprint(PEPPER, value)) for name, value in values}


# ------------------------------------------------------------------ usage and ages


def test_a_run_of_the_monitor_records_which_secrets_its_deployment_uses(
    platform: Platform, database: Rows
) -> None:
    see(platform)
    eventually(lambda: database.execute("select 1 from deployments").fetchone())
    row = database.execute("select * from deployments").fetchone()
    assert row is not None
    assert (row["deployment"], row["maintenance_mode"]) == ("dpl_local", "")
    rows = database.execute("select name, fingerprint, deployment from key_sightings").fetchall()
    pepper = platform.environment["KEY_FINGERPRINT_PEPPER"]
    expected = secrets.fingerprint(pepper, platform.environment["DATABASE_URL"])
    assert {"name": "DATABASE_URL", "fingerprint": expected, "deployment": "dpl_local"} in rows
    text = json.dumps([rows, platform.logs()], default=str)
    for secret in all_settings(OperatorSettings):
        value = platform.environment.get(secret.name) if secret.secret else None
        assert not value or value not in text, secret.name


def test_a_build_in_maintenance_mode_is_recorded_as_such(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/cron/watch.py", MAINTENANCE_MODE="on") as watch:
        bearer = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
        assert httpx.get(f"{watch.url}/api/cron/watch", headers=bearer, timeout=30).is_success
    eventually(
        lambda: database.execute(
            "select 1 from deployments where maintenance_mode = 'intake'"
        ).fetchone()
    )


def test_recording_again_keeps_the_first_time_and_moves_the_last(
    services: Services, database: Rows
) -> None:
    run = services.database.run
    for minutes in (5, 0, 10):
        at = NOW + timedelta(minutes=minutes)
        secrets.record_usage(run, {"CRON_SECRET": "x"}, PEPPER, "dpl_a", at)
    (row,) = database.execute("select first_seen_at, last_seen_at from key_sightings").fetchall()
    assert row["last_seen_at"] == NOW + timedelta(minutes=10)


def test_a_secret_is_overdue_when_it_is_too_old_and_still_used(
    services: Services,
) -> None:
    run, cron = services.database.run, inventory.BY_NAME["CRON_SECRET"]
    born = NOW - timedelta(days=cron.max_age_days)
    secrets.record_usage(run, {"CRON_SECRET": "old"}, PEPPER, "dpl_a", born)
    secrets.record_usage(run, {"CRON_SECRET": "old"}, PEPPER, "dpl_b", NOW)
    assert secrets.list_overdue(run, NOW) == ()
    assert secrets.list_overdue(run, NOW + timedelta(seconds=1)) == ("CRON_SECRET",)
    # A new deployment uses a new one, and none the old: the old is over.
    secrets.record_usage(run, {"CRON_SECRET": "new"}, PEPPER, "dpl_c", NOW + timedelta(hours=2))
    assert secrets.list_overdue(run, NOW + timedelta(hours=2)) == ()


def test_without_a_pepper_nothing_is_recorded(services: Services, database: Rows) -> None:
    secrets.record_usage(services.database.run, {"CRON_SECRET": "x"}, "", "dpl_a", NOW)
    assert database.execute("select 1 from key_sightings").fetchone() is None


def test_the_table_of_ages_exits_one_when_a_key_is_overdue(
    platform: Platform, services: Services, capsys: Printed
) -> None:
    pepper = platform.environment["KEY_FINGERPRINT_PEPPER"]
    now = datetime.now(UTC)
    secrets.record_usage(services.database.run, {"CRON_SECRET": "x" * 32}, pepper, "dpl_a", now)
    assert cli.main(["keys"], platform.environment) == 0
    output = capsys.readouterr().out
    assert all(key.name in output for key in inventory.SECRETS)
    assert secrets.fingerprint(pepper, "x" * 32) in output
    old = now - timedelta(days=400)
    secrets.record_usage(services.database.run, {"RESEND_API_KEY": "y"}, pepper, "dpl_a", old)
    secrets.record_usage(services.database.run, {"RESEND_API_KEY": "y"}, pepper, "dpl_a", now)
    assert cli.main(["keys", "--json"], platform.environment) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["RESEND_API_KEY"]["verdict"] == "OVERDUE"
    assert rows["CRON_SECRET"]["used_by"] == "dpl_a"


# ------------------------------------------------------------------ the operator's file


def test_the_key_file_is_private_and_keeps_its_other_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.env"
    file.write_text("# ours\nSITE_URL=https://x\nCRON_SECRET=old\n")
    key_file = KeyFile(file)
    key_file.update({"CRON_SECRET": "new", "CRON_SECRET__RETIRING": "old"})
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().splitlines()[:2] == ["# ours", "SITE_URL=https://x"]
    assert key_file.read()["CRON_SECRET"] == "new"
    key_file.update({"CRON_SECRET__RETIRING": None})
    assert set(key_file.read()) == {"SITE_URL", "CRON_SECRET"}


def test_a_secret_that_a_person_must_create_is_taken_from_the_file(
    platform: Platform, database: Rows, tmp_path: Path, capsys: Printed
) -> None:
    environment, path = dict(platform.environment), tmp_path / "mine.env"
    words = ["rotate", "SENTRY_DSN", "--keep", str(path), *QUICK]
    assert cli.main(words, environment) == 1
    assert "SENTRY_DSN__NEW" in capsys.readouterr().err
    assert database.execute("select step from key_rotations").fetchall() == [{"step": ""}]


def test_a_key_of_operators_alone_is_not_rotated_here(platform: Platform, capsys: Printed) -> None:
    assert cli.main(["rotate", "RESEND_ADMIN_KEY"], platform.environment) == 2
    assert "RESEND_ADMIN_KEY is not used by deployments" in capsys.readouterr().err
