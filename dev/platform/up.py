"""`up`, `migrate` and `cron`: the platform from a terminal."""

import json
import os
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Never

import httpx
import psycopg

from dev import bootstrap
from dev.build import catalogue_snapshot
from dev.edge.route_patterns import Unsupported
from dev.platform import demo as demo_data
from dev.platform import environment, migrations, ports
from dev.platform.home_page import format_addresses
from dev.platform.local_platform import DATABASE, Platform
from dev.platform.local_secrets import LocalSecrets
from dev.platform.postgres import Postgres, PostgresFailed
from dev.platform.seed import load_seed
from dev.platform.state import Busy, State
from dev.platform.valkey import ValkeyFailed

FAILURES = (
    OSError,
    Unsupported,
    PostgresFailed,
    ValkeyFailed,
    migrations.MigrationFailed,
    environment.SettingsUnreadable,
    psycopg.Error,
)


class _Stop(BaseException):
    """Ctrl-C or SIGTERM."""


def run(root: Path, data: Path, port: int | None, *, quiet: bool, crons: bool) -> int:
    """Run until told to stop; 1 when it cannot start, or runs already."""
    state = State(data)
    try:
        with state.alone():
            _on_signals()
            return _serve(state, root, data, port, quiet=quiet, crons=crons)
    except Busy:
        return _print_already_running(state)
    except _Stop:
        print("Stopped.")
        return 0


def _serve(
    state: State, root: Path, data: Path, port: int | None, *, quiet: bool, crons: bool
) -> int:
    try:
        chosen = _site_port(port)
        platform = Platform(
            root,
            data,
            port=chosen,
            environ=os.environ,
            echo_logs=not quiet,
            crons=crons,
            progress=_print,
        )
        with platform:
            load_seeds(root, platform)
            state.write(platform.state())
            _announce(platform)
            while True:
                signal.pause()
    except FAILURES as fault:
        print(f"The platform did not start: {fault}", file=sys.stderr)
        return 1


def load_seeds(root: Path, platform: Platform) -> None:
    """Fill an empty catalogue with the seed, unless the database is not the platform's own."""
    if platform.environment["DATABASE_URL"] != platform.database_url:
        return
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        if connection.execute("select from products limit 1").fetchone() is not None:
            return
        seed = json.loads((root / catalogue_snapshot.SEED).read_text(encoding="utf-8"))
        stored = load_seed(connection, seed)
    print(f"      put {stored} products of the seed in the catalogue", flush=True)


def run_throwaway(root: Path, major: int) -> int:
    """A platform for another program: its state in one line, until standard input closes."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="alfa-") as data,
            Platform(root, Path(data), durable=False, major=major) as platform,
        ):
            print(json.dumps(platform.state()), flush=True)
            sys.stdin.read()
    except FAILURES as fault:
        print(f"The platform did not start: {fault}", file=sys.stderr)
        return 1
    return 0


def migrate(root: Path, data: Path, dsn: str | None) -> int:
    """Migrate `dsn`, the running platform's database, or the one at rest in `data`."""
    directory = root / "supabase" / "migrations"
    running = State(data).read()
    try:
        if dsn or running:
            return _print_applied(
                migrations.apply(dsn or (running or {})["admin_database_url"], directory)
            )
        with State(data).alone():
            keys = LocalSecrets(data / "secrets.json")
            postgres = Postgres(data / "postgres", keys["POSTGRES_PASSWORD"], durable=True)
            try:
                migrations.ensure_database(postgres.dsn("postgres"), DATABASE)
                return _print_applied(migrations.apply(postgres.dsn(DATABASE), directory))
            finally:
                postgres.close()
    except Busy:
        print("The platform is just starting; it applies the migrations itself.", file=sys.stderr)
    except FAILURES as fault:
        print(fault, file=sys.stderr)
    return 1


def cron(data: Path, name: str) -> int:
    """Call a cron of the running platform and print its answer; 1 unless it succeeded."""
    running = State(data).read()
    if running is None:
        print("Nothing is running: start it with `python3 -m dev`.", file=sys.stderr)
        return 1
    url = f"{running['control_url']}/cron"
    answer = httpx.post(url, json={"path": name}, timeout=330, trust_env=False).json()
    if "error" in answer:
        print(answer["error"], file=sys.stderr)
        return 1
    print(answer["status"], answer["body"])
    return 0 if answer["status"] < 400 else 1


def demo(data: Path, *, is_removal: bool) -> int:
    """Put the demo's month into the running platform, or remove it; 1 when it cannot be."""
    running = State(data).read()
    if running is None:
        print("Nothing is running: start it with `python3 -m dev`.", file=sys.stderr)
        return 1
    now = datetime.now(UTC)
    try:
        if is_removal:
            print(f"Removed {demo_data.remove(running, now)} rows.")
        else:
            for table, rows in demo_data.fill(running, now).items():
                print(f"  {table:<18}{rows:>6}")
    except (demo_data.NotLocal, psycopg.Error) as error:
        print(error, file=sys.stderr)
        return 1
    # The monitor publishes what /status shows.
    if cron(data, "watch") != 0:
        return 1
    if not is_removal:
        print(f"See {running['url']}/status and /vitals, `python3 -m ops --local leads list`,")
        print("`python3 -m ops --local incident list`. `python3 -m dev demo --remove` removes it.")
    return 0


def _on_signals() -> None:
    def stop(_number: int, _frame: FrameType | None) -> Never:
        # Once is enough: a second signal must not interrupt the stopping.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        print("\nStopping …", flush=True)
        raise _Stop

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _site_port(port: int | None) -> int:
    if port:
        if not ports.is_free(port):
            raise OSError(f"port {port} is taken by another program")
        return port
    chosen = ports.first_free()
    if chosen != ports.DEFAULT_SITE_PORT:
        print(f"Port {ports.DEFAULT_SITE_PORT} is taken: the site gets {chosen}.")
    return chosen


def _print(text: str) -> None:
    number = 5 if text.startswith("Applying") else 4
    bootstrap.step(number, text)


def _announce(platform: Platform) -> None:
    if platform.migrated:
        print(f"      applied {', '.join(platform.migrated)}")
    print(
        f"\n{format_addresses(platform.state())}\n\nStop with Ctrl-C, or `python3 -m dev down`.",
        flush=True,
    )


def _print_already_running(state: State) -> int:
    running = state.read()
    if running is None:
        print("The platform is just starting, or stopping, in another process.", file=sys.stderr)
        return 1
    print(f"The platform already runs (process {running['pid']}):\n\n{format_addresses(running)}\n")
    print("Stop it with `python3 -m dev down`.")
    return 1


def _print_applied(applied: list[str]) -> int:
    print("\n".join(f"applied {name}" for name in applied) or "Nothing to apply.")
    return 0
