"""The platform: Postgres, Valkey, the vendors' stand-ins and Vercel's runtime behind a router."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from dev.edge import proxy, router
from dev.edge.functions import Pool
from dev.edge.http_server import Response, Server
from dev.edge.proxy import Site
from dev.edge.runtime import Function
from dev.platform import control, environment, migrations, postgres_binaries
from dev.platform.cron_schedule import Scheduler
from dev.platform.environment import Addresses
from dev.platform.local_secrets import LocalSecrets
from dev.platform.logs import LogBuffer
from dev.platform.postgres import Postgres
from dev.platform.supabase_server import SUPERUSER
from dev.platform.valkey import Valkey
from dev.vendors.fake_vendor import FakeVendor
from dev.vendors.resend import Resend
from dev.vendors.sentry import Sentry
from dev.vendors.slack import Slack
from dev.vendors.supabase_api import SupabaseApi
from dev.vendors.supabase_keys import SupabaseKeys
from dev.vendors.turnstile import Turnstile
from dev.vendors.upstash import Upstash
from dev.vendors.upstash_users import UpstashApi, Users
from dev.vendors.uptimerobot import UptimeRobot
from dev.vendors.vercel_api import VercelApi
from dev.vendors.vercel_project import Deployment

DATABASE = "alfa"
APP_GROUP = "alfa_app"
APP_ROLE = "alfa_api_a"


class Platform:
    """Everything on free ports of 127.0.0.1, from __enter__ to __exit__.

    root: the tree that is served; data: where databases and secrets live; port: the site's, 0
    for any; environ: variables of the bundle that win over the platform's own; durable=False:
    fast, and nothing is worth keeping; major: PostgreSQL's; crons: call those of vercel.json on
    schedule.
    """

    url: str
    control_url: str
    environment: dict[str, str]
    database_url: str
    admin_database_url: str  # the owner's, as in production: no superuser
    superuser_database_url: str  # for what only a test may do
    redis_url: str
    upstash: FakeVendor
    resend: FakeVendor
    slack: FakeVendor
    turnstile: FakeVendor
    sentry: FakeVendor
    vercel: FakeVendor
    supabase: FakeVendor
    vercel_api: VercelApi
    upstash_api: FakeVendor
    slack_api: Slack
    uptimerobot: FakeVendor

    def __init__(
        self,
        root: Path,
        data: Path,
        *,
        port: int = 0,
        environ: Mapping[str, str] | None = None,
        durable: bool = True,
        major: int = postgres_binaries.MAIN,
        echo_logs: bool = False,
        crons: bool = False,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.root = root.resolve()
        self.data = data.resolve()
        self.migrated: list[str] = []
        self._port = port
        self._overrides = dict(environ or {})
        self._deployed: dict[str, str] = {}
        self._durable = durable
        self._major = major
        self._fires_crons = crons
        self._progress = progress
        self._log = LogBuffer(echo=echo_logs)
        self._parts = contextlib.ExitStack()
        self._settings = environment.Settings(self.root)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as parts:
            self._start(parts)
            # Only a platform that is whole is kept; half of one is stopped right here.
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def state(self) -> dict[str, Any]:
        """Every address, local secret and variable; what state.json holds."""
        return {
            "pid": os.getpid(),
            "root": str(self.root),
            "url": self.url,
            "control_url": self.control_url,
            "database_url": self.database_url,
            "admin_database_url": self.admin_database_url,
            "superuser_database_url": self.superuser_database_url,
            "redis_url": self.redis_url,
            "stand_ins": {
                name: {"url": vendor.url, "control": f"{vendor.url}/_control"}
                for name, vendor in self.stand_ins().items()
            },
            "secrets": self._keys.all(),
            "environment": self.environment,
        }

    def stand_ins(self) -> dict[str, FakeVendor]:
        """Every vendor on this machine, by name."""
        vendors = (
            *(self.resend, self.slack, self.sentry, self.upstash, self.turnstile),
            *(self.vercel, self.supabase, self.upstash_api, self.uptimerobot),
        )
        return {vendor.name.lower(): vendor for vendor in vendors}

    def crons(self) -> list[dict[str, str]]:
        """The crons of vercel.json: {path, schedule}. ValueError when the file is broken."""
        return self._routes.current().crons

    def logs(self, since: int = 0) -> list[dict[str, Any]]:
        """Decoded log lines after number `since`: {n, at, function, level, message, request_id}."""
        return self._log.since(since)

    def forget_logs(self) -> None:
        self._log.forget()

    def cron(self, name: str) -> Response:
        """Call a cron as Vercel's scheduler does; `name` is its path or the path's last part.

        LookupError when vercel.json has no such cron.
        """
        paths = [cron["path"] for cron in self.crons()]
        chosen = [path for path in paths if name in (path, path.rsplit("/", 1)[-1])]
        if not chosen:
            raise LookupError(f"no cron {name!r}; vercel.json has {', '.join(paths) or 'none'}")
        headers = {"User-Agent": "vercel-cron/1.0"}
        if secret := self.environment.get("CRON_SECRET"):
            headers["Authorization"] = f"Bearer {secret}"
        answer = httpx.get(self.url + chosen[0], headers=headers, timeout=330, trust_env=False)
        return Response(answer.status_code, answer.content)

    @contextlib.contextmanager
    def function(self, entrypoint: str, **overrides: str | None) -> Iterator[Function]:
        """A process of its own for `entrypoint`, with variables changed, or removed by None.

        Its `url` leads to it alone, with the headers the router adds.
        """
        environ = self._environ() | {k: v for k, v in overrides.items() if v is not None}
        for name in [name for name, value in overrides.items() if value is None]:
            environ.pop(name, None)
        with self._pool.start(entrypoint, environ) as function:
            server = Server(router.direct(function, self._site), max_body_bytes=_LIMIT)
            function.url = server.url
            try:
                yield function
            finally:
                server.close()

    def functions(self) -> list[dict[str, Any]]:
        """pid, cold start figures and requests of every running process."""
        return self._pool.running()

    def is_idle(self) -> bool:
        """Whether no function works, after its answers included."""
        return self._pool.is_idle()

    def restart_functions(self) -> None:
        self._pool.restart()

    def _start(self, parts: contextlib.ExitStack) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._keys = LocalSecrets(self.data / "secrets.json")
        self._settings.variables()
        self._routes = router.RoutesFile(self.root / "vercel.json")
        self._start_databases(parts)
        self._start_fake_vendors(parts)
        limits = self._routes.max_duration_s
        self._pool = Pool(self.root, self._environ, limits, self._log, forks=not self._durable)
        parts.callback(self._pool.close)
        handler = router.Router(self.root, self._routes, self._pool, self._log, self._site)
        self._server = Server(handler, self._port, max_body_bytes=_LIMIT)
        parts.callback(self._server.close)
        self.url = self._server.url
        self._available_variables = environment.platform_variables(
            self._addresses(), self._keys, environment.commit_of(self.root)
        )
        self.environment = self._environ()
        self.vercel_api.project.begin(
            _project_variables(self.environment), self.environment["VERCEL_GIT_COMMIT_SHA"]
        )
        control_server = Server(control.app(self))
        parts.callback(control_server.close)
        self.control_url = control_server.url
        if self._fires_crons:
            scheduler = Scheduler(self.crons, self.cron, self._report_cron)
            parts.callback(scheduler.close)

    def _report_cron(self, text: str) -> None:
        self._log.add("crons", "error", text)

    def _start_databases(self, parts: contextlib.ExitStack) -> None:
        self._progress("Starting PostgreSQL, Valkey, the stand-ins and the router")
        password = self._keys["POSTGRES_PASSWORD"]
        folder = self.data / "postgres"
        postgres = Postgres(folder, password, durable=self._durable, major=self._major)
        parts.callback(postgres.close)
        self.postgres = postgres
        valkey = Valkey(self.data / "valkey", durable=self._durable)
        parts.callback(valkey.close)
        self.redis_url = valkey.url
        self.admin_database_url = postgres.dsn(DATABASE)
        self.superuser_database_url = postgres.dsn(DATABASE, SUPERUSER)
        migrations.ensure_database(postgres.dsn("postgres"), DATABASE)
        self._progress("Applying migrations")
        directory = self.root / "supabase" / "migrations"
        self.migrated = migrations.apply(self.admin_database_url, directory)
        self.database_url = self._app_database_url()
        users = Users(self._token("UPSTASH_REDIS_REST_TOKEN"))
        front = Upstash(valkey.port, users)
        parts.callback(front.close)
        self.upstash = self._start_fake_vendor(parts, front)
        self.upstash_api = self._start_fake_vendor(
            parts, UpstashApi(self._token("UPSTASH_API_KEY"), users)
        )

    def _app_database_url(self) -> str:
        """The address as the functions' own role, or the superuser's before there is one."""
        password = self._keys["APP_PASSWORD"]
        if migrations.ensure_login(self.admin_database_url, APP_ROLE, APP_GROUP, password):
            return self.postgres.dsn(DATABASE, APP_ROLE, password)
        return self.admin_database_url

    def _start_fake_vendors(self, parts: contextlib.ExitStack) -> None:
        mail = Resend(self._token("RESEND_API_KEY"), admin_key=self._token("RESEND_ADMIN_KEY"))
        self.resend = self._start_fake_vendor(parts, mail)
        self.slack_api = Slack(self._token("SLACK_BOT_TOKEN"), environment.SLACK_WEBHOOK_PATH)
        self.slack = self._start_fake_vendor(parts, self.slack_api)
        token, first = self._token("SUPABASE_ACCESS_TOKEN"), self._token("SUPABASE_SECRET_KEY")
        self.supabase = self._start_fake_vendor(
            parts, SupabaseApi(token, SupabaseKeys(token, first))
        )
        self.sentry = self._start_fake_vendor(parts, Sentry(self._keys["SENTRY_PUBLIC_KEY"]))
        self.turnstile = self._start_fake_vendor(parts, Turnstile())
        self.vercel_api = VercelApi(self._token("VERCEL_API_TOKEN"), self._activate)
        parts.callback(self.vercel_api.close)
        self.vercel = self._start_fake_vendor(parts, self.vercel_api)
        robot = UptimeRobot(self._token("UPTIMEROBOT_API_KEY"))
        self.uptimerobot = self._start_fake_vendor(parts, robot)

    def _start_fake_vendor(self, parts: contextlib.ExitStack, vendor: Any) -> FakeVendor:
        stand_in = FakeVendor(vendor)
        parts.callback(stand_in.close)
        return stand_in

    def _token(self, name: str) -> str:
        """A stand-in takes the key that the functions are given, whoever chose it."""
        return self._overrides.get(name) or self._keys[name]

    def _addresses(self) -> Addresses:
        return Addresses(
            site=self.url,
            database=self.database_url,
            upstash=self.upstash.url,
            resend=self.resend.url,
            slack=self.slack.url,
            turnstile=self.turnstile.url,
            sentry=self.sentry.url,
            vercel=self.vercel.url,
            supabase=self.supabase.url,
            admin_database=self.admin_database_url,
            backups=str(self.data / "backups"),
            upstash_api=self.upstash_api.url,
            uptimerobot=self.uptimerobot.url,
        )

    def _environ(self) -> dict[str, str]:
        """Asked at every start of a function: there may be new variables."""
        try:
            variables = self._settings.variables()
        except environment.SettingsUnreadable as fault:
            # The function itself will say so, as in production.
            print(f"the settings: {fault}", file=sys.stderr)
            return dict(self.environment)
        composed = environment.compose(
            variables, self._available_variables, self._overrides, self._keys
        )
        return composed | self._deployed

    def _activate(self, deployment: Deployment) -> None:
        """Run what the domains lead to now, with the variables it was built with."""
        first = deployment.id == self._available_variables["VERCEL_DEPLOYMENT_ID"]
        system = {
            "VERCEL_DEPLOYMENT_ID": deployment.id,
            "VERCEL_GIT_COMMIT_SHA": deployment.commit,
        }
        self._deployed = {} if first else {**deployment.environ, **system}
        self.environment = self._environ()
        self._pool.restart()

    def _site(self) -> Site:
        return Site(self._server.port)


def _project_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The project's variables: all but Vercel's own."""
    return {name: text for name, text in environ.items() if not name.startswith("VERCEL")}


_LIMIT = proxy.MAX_BODY_BYTES
