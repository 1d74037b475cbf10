"""pgbouncer in transaction mode, as Supabase's pooler stands before Postgres in production."""

import contextlib
import os
import pwd
import shutil
import signal
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg

from dev import tools
from dev.edge import runtime
from dev.platform import ports, processes

_START_TIMEOUT_S = 15.0
_SERVER_USER = "nobody"

_CONFIG = """
[databases]
{database} = host={host} port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
admin_users = {user}
"""


class PoolerFailed(RuntimeError):
    """pgbouncer did not start; the text holds its last words."""


class PgBouncer:
    """A pooler on `port` before the database of `dsn`, with pool_size server connections.

    tools.Missing when it is not installed and cannot be.
    """

    def __init__(self, dsn: str, *, pool_size: int = 3) -> None:
        executable = tools.ensure_pooler()
        server = urlsplit(dsn)
        user, password = unquote(server.username or ""), unquote(server.password or "")
        self.port = ports.free()
        self.dsn = dsn.replace(f":{server.port}/", f":{self.port}/")
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir="/var/tmp"))
        config = _CONFIG.format(
            database=server.path.strip("/"),
            host=server.hostname,
            server_port=server.port,
            port=self.port,
            folder=self._folder,
            pool_size=pool_size,
            user=user,
        )
        (self._folder / "pgbouncer.ini").write_text(config)
        (self._folder / "users.txt").touch(mode=0o600)
        (self._folder / "users.txt").write_text(f'"{user}" "{password}"\n')
        # It refuses root.
        uid = pwd.getpwnam(_SERVER_USER).pw_uid if os.geteuid() == 0 else None
        if uid is not None:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, uid, -1)
        with (self._folder / "pgbouncer.log").open("wb") as log:
            self._process = processes.spawn(
                [executable, self._folder / "pgbouncer.ini"],
                env=runtime.base_environment(),
                cwd=self._folder,
                stdout=log.fileno(),
                uid=uid,
            )
        if not self._ready():
            words = self.log()[-2000:]
            self.close()
            raise PoolerFailed(f"pgbouncer did not start:\n{words}")

    def log(self) -> str:
        return (self._folder / "pgbouncer.log").read_text(errors="replace")

    def pools(self) -> list[dict[str, object]]:
        """SHOW POOLS: a row a pool."""
        with psycopg.connect(
            self.dsn.rpartition("/")[0] + "/pgbouncer", autocommit=True
        ) as connection:
            # Its console knows the simple protocol alone.
            cursor = psycopg.ClientCursor(connection)
            cursor.execute("show pools")
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def close(self) -> None:
        processes.stop(self._process, signal.SIGTERM)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ready(self) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn, connect_timeout=2).close()
                return True
            time.sleep(0.05)
        return False
