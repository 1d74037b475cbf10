"""A PostgreSQL server of our own, of any major in postgres_binaries.py, shaped as Supabase's.

Postgres refuses root: then it runs as an unprivileged user, from copies of its binaries and data
where that user can reach them. `dsn()` is the owner's address, who is no superuser.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from dev import tools
from dev.edge import runtime
from dev.platform import ports, postgres_binaries, processes, supabase_server, unprivileged
from dev.platform.supabase_server import OWNER, STATEMENT_TIMEOUT, SUPERUSER

_START_TIMEOUT_S = 60.0
_ATTEMPTS = 6
_RETRY_S = 0.1

# Nothing here is worth waiting for a disk when the data is thrown away.
_FORGETFUL = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]


class PostgresFailed(RuntimeError):
    """The server did not start; the text holds its last words."""


class Postgres:
    """A running server on `port`; `folder` holds its data unless root's files are out of reach."""

    def __init__(
        self, folder: Path, password: str, *, durable: bool, major: int = postgres_binaries.MAIN
    ) -> None:
        self.major = major
        self._password = password
        self._durable = durable
        self._place = unprivileged.prepare(_package(major), folder)
        self._bin = self._place.package / "bin"
        self.data = self._place.data
        self._set_aside_another_major()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._clear_stale_lock()
        for attempt in range(_ATTEMPTS):
            self.port = ports.free()
            self._process = self._start()
            if self._ready():
                break
            # The port may have been taken between the look and the start; or a killed run's
            # backends still hold its shared memory for a moment after their postmaster.
            if attempt == _ATTEMPTS - 1:
                raise PostgresFailed(f"PostgreSQL did not start:\n{self._last_words()}")
            time.sleep(_RETRY_S * 2**attempt)
        try:
            supabase_server.make(
                self.dsn("postgres", SUPERUSER), self.dsn("template1", SUPERUSER), password
            )
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def dsn(self, database: str, user: str = OWNER, password: str | None = None) -> str:
        secret = self._password if password is None else password
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    def tool(self, name: str) -> Path:
        """The path of psql, pg_dump and their like."""
        return self._bin / name

    def close(self) -> None:
        # SIGINT: a fast shutdown, which ends sessions and leaves nothing to recover.
        processes.stop(self._process, signal.SIGINT, timeout_s=20)
        if not self._durable:
            shutil.rmtree(self.data, ignore_errors=True)

    def _set_aside_another_major(self) -> None:
        """One major does not read the data of another: keep those, under another name."""
        file = self.data / "PG_VERSION"
        before = file.read_text().strip() if file.exists() else str(self.major)
        if before == str(self.major):
            return
        self._clear_stale_lock()
        target = self.data.with_name(f"{self.data.name}-{before}")
        if target.exists():
            target = target.with_name(f"{target.name}-{time.strftime('%Y%m%dT%H%M%S')}")
        self.data.rename(target)
        print(
            f"The local database was made by PostgreSQL {before}; this is {self.major}, which"
            f" cannot read it. A new one is made. The old data are kept in {target}: remove that"
            f" folder when nobody wants them, or read them with a server of {before}.",
            file=sys.stderr,
        )

    def _initialise(self) -> None:
        """initdb into a folder of its own, moved into place only when it is whole."""
        fresh = self.data.with_name(f"{self.data.name}.new-{secrets.token_hex(4)}")
        password_file = self.data.with_name(f".pw-{secrets.token_hex(8)}")
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        self._place.chown(password_file)
        command: list[str | Path] = [
            self._bin / "initdb",
            *("-D", fresh, "-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"),
            *_locale(self.major),
            f"--pwfile={password_file}",
        ]
        try:
            process = self._spawn(command, stdout=subprocess.PIPE)
            output, _ = process.communicate(timeout=120)
        finally:
            password_file.unlink()
        if process.returncode != 0:
            raise PostgresFailed(f"initdb failed:\n{output.decode(errors='replace')}")
        fresh.rename(self.data)

    def _start(self) -> subprocess.Popen[bytes]:
        options = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_preload_libraries=pg_stat_statements",
            "wal_level=logical",
            f"statement_timeout={STATEMENT_TIMEOUT}",
            "timezone=UTC",
            *([] if self._durable else _FORGETFUL),
        ]
        flags = [part for option in options for part in ("-c", option)]
        command: list[str | Path] = [self._bin / "postgres", "-D", self.data, *flags]
        with self._log.open("wb") as log:
            return self._spawn(command, stdout=log.fileno())

    def _spawn(self, command: list[str | Path], stdout: int) -> subprocess.Popen[bytes]:
        return processes.spawn(
            command,
            env=runtime.base_environment(),
            cwd=self.data.parent,
            stdout=stdout,
            uid=self._place.uid,
            on_parent_death=signal.SIGINT,
        )

    def _ready(self) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn("postgres", SUPERUSER), connect_timeout=2).close()
                return self._process.poll() is None
            time.sleep(0.02)
        processes.stop(self._process, signal.SIGKILL)
        return False

    def _clear_stale_lock(self) -> None:
        """A killed run leaves postmaster.pid, and perhaps a server that is still stopping.

        Postgres itself believes the file whenever any process has that id.
        """
        file = self.data / "postmaster.pid"
        try:
            pid = int(file.read_text().split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return
        deadline = time.monotonic() + 20
        while self._serves_this_data(pid) and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            time.sleep(0.1)
        if self._serves_this_data(pid):
            raise PostgresFailed(f"process {pid} still serves {self.data}; stop it first")
        file.unlink(missing_ok=True)

    def _serves_this_data(self, pid: int) -> bool:
        process = subprocess.run(
            ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return str(self.data) in process.stdout

    @property
    def _log(self) -> Path:
        return self.data.with_name("postgres.log")

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def _package(major: int) -> Path:
    try:
        return postgres_binaries.ensure(major)
    except tools.Missing as fault:
        raise PostgresFailed(str(fault)) from None


def _locale(major: int) -> tuple[str, ...]:
    """The same order and the same lower case everywhere: 17 has that built in."""
    if major >= 17:
        return ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
    return ("--locale=C.UTF-8",)
