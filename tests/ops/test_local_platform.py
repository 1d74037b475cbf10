"""`ops` runs the local platform as a program: its variables, PostgreSQL's programs, a throwaway."""

import os

import httpx
import psycopg
import pytest

from dev.platform.state import State
from ops import cli, local_platform
from ops.command import Failed
from ops.recovery import postgres

pytestmark = pytest.mark.slow


def test_without_a_local_platform_the_option_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if State(local_platform.DATA).read() is not None:
        pytest.skip("a platform runs in this clone")
    assert cli.main(["--local", "keys"], {}) == 2
    assert "no local platform is running" in capsys.readouterr().err


def test_the_programs_of_a_pinned_major_are_found_and_of_another_refused() -> None:
    folder = local_platform.postgres_folder(17)
    assert postgres.major_version(folder / "bin" / "pg_dump") == 17
    with pytest.raises(Failed, match="PostgreSQL 14 is not among those pinned here"):
        local_platform.postgres_folder(14)


def test_a_throwaway_platform_serves_until_it_is_left_and_leaves_nothing() -> None:
    with local_platform.throwaway(17) as site:
        assert httpx.get(f"{site['url']}/api/health", timeout=20).json()["status"] == "ok"
        with psycopg.connect(site["admin_database_url"]) as connection:
            assert connection.info.server_version // 10_000 == 17
        os.kill(site["pid"], 0)
    with pytest.raises(ProcessLookupError):
        os.kill(site["pid"], 0)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(site["admin_database_url"])
