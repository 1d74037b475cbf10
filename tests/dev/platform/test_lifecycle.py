"""Restarts, kills and the state file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from dev.platform.local_platform import Platform
from dev.platform.state import Busy, State
from dev.vendors.resp import Connection

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

RUN = """
import sys
from pathlib import Path
from dev.platform.local_platform import Platform
with Platform(Path(sys.argv[1]), Path(sys.argv[2])) as platform:
    print(platform.admin_database_url, platform.postgres.pid, flush=True)
    sys.stdin.read()
"""


def test_data_survives_a_restart(tmp_path: Path) -> None:
    with Platform(ROOT, tmp_path) as platform:
        with psycopg.connect(platform.admin_database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        valkey(platform, b"SET", b"kept", b"7")
    with Platform(ROOT, tmp_path) as platform:
        assert platform.migrated == []
        with psycopg.connect(platform.admin_database_url) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
        assert valkey(platform, b"GET", b"kept") == b"7"


def valkey(platform: Platform, *command: bytes) -> object:
    connection = Connection(int(platform.redis_url.rpartition(":")[2]))
    try:
        return connection.run([command])[0]
    finally:
        connection.close()


def test_a_killed_platform_leaves_no_process_and_starts_again(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(ROOT), str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        dsn, postgres = process.stdout.readline().split()
        process.kill()
    with Platform(ROOT, tmp_path) as platform:
        assert platform.admin_database_url != dsn
        assert platform.postgres.pid != int(postgres)
        with psycopg.connect(platform.admin_database_url) as connection:
            connection.execute("SELECT 1")


def test_one_platform_at_a_time_owns_a_folder(tmp_path: Path) -> None:
    state = State(tmp_path)
    with state.alone():
        state.write({"url": "http://127.0.0.1:1"})
        assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
        assert state.read() is not None
        with pytest.raises(Busy), State(tmp_path).alone():
            pass
    assert state.read() is None


def test_down_stops_the_process_that_wrote_the_state(tmp_path: Path) -> None:
    waits = (
        "import sys, signal; from pathlib import Path; from dev.platform.state import State\n"
        "State(Path(sys.argv[1])).write({}); print('up', flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", waits, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert State(tmp_path).stop()
        assert process.wait(5) == -signal.SIGTERM
    assert not State(tmp_path).stop()


def test_a_state_file_of_another_process_with_our_id_counts_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(f'{{"pid": {os.getpid()}, "process_started": "0"}}')
    assert State(tmp_path).read() is None
