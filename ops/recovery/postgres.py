"""Connections as the tables' owner, and PostgreSQL's own programs.

The rule a newcomer would break: an address goes into a child's environment (PGHOST, PGPASSWORD
and their like), never into its arguments, which every user of the machine can read.
"""

import contextlib
import itertools
import os
import re
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from ops import connections, local_platform
from ops.command import Failed

CONNECT_S = 10
MAX_SILENCE_S = 120.0  # no byte from pg_dump for so long: something is locked or gone
MAX_RUNTIME_S = 2 * 3600.0  # twice the RTO; after that nobody waits for it
TRANSACTION_POOLER_PORT = 6543  # Supabase: the transaction pooler's
READ_SIZE = 1 << 20

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_PROGRAM_ERROR = re.compile(r"^\w+:(?:<stdin>:\d+:)? (?:error|fatal): .*$", re.MULTILINE)
_SQL_ERROR = re.compile(r"(?:ERROR|FATAL):  (?P<state>[0-9A-Z]{5}): (?P<words>.*)$", re.MULTILINE)
_NOTICE = re.compile(r"NOTICE:  00000: alfa: (.*)$", re.MULTILINE)

type Connection = psycopg.Connection[Any]


def connect(dsn: str) -> Connection:
    """A connection in autocommit mode that keeps its session. Raises Failed.

    A transaction pooler is refused: there a dump's settings, and so its snapshot, get lost.
    """
    if int(conninfo_to_dict(dsn).get("port") or 5432) == TRANSACTION_POOLER_PORT:
        raise Failed(_POOLER_MESSAGE, status=2)
    try:
        connection = psycopg.connect(
            dsn, autocommit=True, connect_timeout=CONNECT_S, application_name="alfa-ops"
        )
    except psycopg.OperationalError as error:
        # Its last clause, after server, port and user.
        raise Failed(f"DATABASE_DIRECT_URL: {connections.explain(error)}") from None
    if not _keeps_session(connection, dsn):
        connection.close()
        raise Failed(_POOLER_MESSAGE, status=2)
    return connection


_POOLER_MESSAGE = (
    "DATABASE_DIRECT_URL leads to a transaction pooler, through which nothing can be dumped or"
    " restored: give the direct connection, or the session pooler (Supabase: port 5432)"
)


def _keeps_session(connection: Connection, dsn: str) -> bool:
    """Whether a setting outlives its statement while somebody else takes a free connection."""
    connection.execute("set alfa.mark = 'ours'")
    with psycopg.connect(dsn, connect_timeout=CONNECT_S) as second:
        second.execute("select 1")  # its transaction holds on to a server connection
        row = connection.execute("select current_setting('alfa.mark', true)").fetchone()
    return row is not None and row[0] == "ours"


def display_address(dsn: str) -> str:
    """The address for people: host and database, no user and no password."""
    parts = conninfo_to_dict(dsn)
    return f"{parts.get('host', 'localhost')}/{parts.get('dbname', '')}"


def base_environment() -> dict[str, str]:
    """What any child needs to run."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def libpq_environment(dsn: str) -> dict[str, str]:
    """The address as libpq's variables, over what a child needs to run."""
    names = {
        option.keyword.decode(): option.envvar.decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar
    }
    options = {"connect_timeout": str(CONNECT_S), **conninfo_to_dict(dsn)}
    return base_environment() | {
        names[key]: str(value) for key, value in options.items() if key in names
    }


# ------------------------------------------------------------------ which program


def find_program(name: str, major: int, *, or_newer: bool = False) -> Path:
    """The program of exactly that major, or else of the next newer one where that will do.

    Of two alike it is the one on the PATH; one that is nowhere comes from the local platform's
    pinned packages. Raises Failed, naming what to install.
    """
    installed = [(major_version(path), path) for path in _installed(name)]
    exact = [path for version, path in installed if version == major]
    if exact:
        return exact[0]
    newer = [(version, path) for version, path in installed if or_newer and version > major]
    if newer:
        return min(newer, key=lambda candidate: candidate[0])[1]
    try:
        return local_platform.postgres_folder(major) / "bin" / name
    except Failed as error:
        versions = sorted({version for version, _ in installed} - {0})
        raise Failed(
            f"{name} {major} is wanted; found: {', '.join(map(str, versions)) or 'none'}."
            f" Install it (Debian, Ubuntu: apt-get install postgresql-client-{major}; macOS: brew"
            f" install postgresql@{major}). {error}",
            status=2,
        ) from None


def _installed(name: str) -> Iterator[Path]:
    if on_path := shutil.which(name):
        yield Path(on_path)
    yield from Path("/usr/lib/postgresql").glob(f"*/bin/{name}")


@cache
def major_version(path: Path) -> int:
    """0 where it does not run."""
    try:
        result = subprocess.run(  # noqa: S603 - PostgreSQL's program, no shell
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    version = _VERSION.search(result.stdout)
    return int(version[1]) if version else 0


# ------------------------------------------------------------------ running it


@contextlib.contextmanager
def run_program(
    command: list[str], environ: Mapping[str, str], *, notices: list[str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child with pipes, killed after MAX_RUNTIME_S. Raises Failed when it fails.

    Its messages are shown only as far as they cannot quote a row. notices: gets the NOTICEs that
    our own SQL raised.
    """
    with tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(  # noqa: S603 - PostgreSQL's program, no shell
            command, env=dict(environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
        timer = threading.Timer(MAX_RUNTIME_S, child.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # its own message says why
                yield child
                _close(child.stdin)
            status = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
        finally:
            timer.cancel()
            with contextlib.suppress(BrokenPipeError):
                _close(child.stdin)
            _close(child.stdout)
        stderr.seek(0)
        messages = stderr.read().decode(errors="replace")
        if status != 0:
            raise Failed(_error_message(command[0], status, messages))
        if notices is not None:
            notices += _NOTICE.findall(messages)


def _error_message(program: str, status: int, messages: str) -> str:
    # Lines after these may be DETAIL or CONTEXT, which quote what people wrote; so may the first
    # line of an error about a value, SQLSTATE 22.
    if error := _SQL_ERROR.search(messages):
        words = "a value was refused" if error["state"].startswith("22") else error["words"]
        return f"{words} ({error['state']})"
    error = _PROGRAM_ERROR.search(messages)
    return error[0] if error else f"{Path(program).name} ended with status {status}"


def write_in_thread(
    child: subprocess.Popen[bytes], head: bytes, stream: Iterator[bytes]
) -> list[Exception]:
    """Write to a child from a thread, so that its output can be read meanwhile.

    The list gets the error of the stream; a child that stops reading is none.
    """
    errors: list[Exception] = []

    def write() -> None:
        try:
            if child.stdin is not None:
                with child.stdin as pipe:
                    for piece in itertools.chain([head], stream):
                        pipe.write(piece)
        except (BrokenPipeError, ValueError):
            pass
        except Exception as error:  # noqa: BLE001 - it is raised where the list is read
            errors.append(error)
            child.kill()  # or it would take the end of the pipe for the end of the archive

    threading.Thread(target=write, daemon=True).start()
    return errors


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None and not pipe.closed:
        pipe.close()


def read_output(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What it writes, as it comes. Raises Failed after MAX_SILENCE_S without a byte."""
    if child.stdout is None:
        raise ValueError("a child without a pipe")
    descriptor = child.stdout.fileno()
    while True:
        ready, _, _ = select.select([descriptor], [], [], MAX_SILENCE_S)
        if not ready:
            raise Failed(f"no byte came for {MAX_SILENCE_S:.0f} s: a lock, or a lost connection")
        piece = os.read(descriptor, READ_SIZE)
        if not piece:
            return
        yield piece
