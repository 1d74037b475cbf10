"""`ops check [DUTY]`: what a duty needs, and whether every vendor takes the keys that are here.

The rule a newcomer would break: a check asks and changes nothing, and it names every fault at once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from uuid import uuid4

import click
import httpx
import psycopg

from lib.problems import NotConfigured, SlackError
from ops import command, connections
from ops.command import Args, Failed
from ops.recovery import postgres
from ops.settings import OperatorServices, OperatorSettings
from ops.vendors import supabase, uptimerobot
from ops.vendors.http import JsonApi
from ops.vendors.vercel import Vercel

TIMEOUT_S = 8.0
OK, MISSING, MALFORMED = "ok", "MISSING", "MALFORMED"
REDIS = ("UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN")
VERCEL = ("VERCEL_API_TOKEN", "VERCEL_PROJECT_ID")
SLACK = ("SLACK_BOT_TOKEN", "SLACK_CHANNEL_ID")
SUPABASE = ("SUPABASE_ACCESS_TOKEN", "SUPABASE_PROJECT_REF")
UPSTASH = ("UPSTASH_EMAIL", "UPSTASH_API_KEY", "UPSTASH_DATABASE_ID")
BACKUP = ("DATABASE_DIRECT_URL", "BACKUP_ENCRYPTION_KEY", "BACKUP_DIRECTORY")

# Duty -> the variables that its commands need.
DUTIES: dict[str, tuple[str, ...]] = {
    "on-call": ("DATABASE_URL", *REDIS, "CANARY_SECRET", "CRON_SECRET", "HEALTH_CHECK_TOKEN",
                *SLACK, *VERCEL),
    "sales-desk": ("DATABASE_URL", *REDIS, "LEADS_ENCRYPTION_KEY"),
    "catalogue": ("DATABASE_URL", *REDIS),
    "privacy": ("DATABASE_URL", *REDIS, "ERASURE_KEY"),
    "backup": BACKUP,
    "restore": (*BACKUP, "DATABASE_URL", *REDIS, "LEADS_ENCRYPTION_KEY", "ERASURE_KEY",
                "CANARY_SECRET", "MAINTENANCE_BYPASS_TOKEN"),
    "supabase-restore": ("DATABASE_DIRECT_URL", *SUPABASE),
    "rotation": ("DATABASE_DIRECT_URL", "KEY_FINGERPRINT_PEPPER", *VERCEL, "CRON_SECRET",
                 "RESEND_ADMIN_KEY", *UPSTASH, *SUPABASE),
    "monitors": ("UPTIMEROBOT_API_KEY", "HEALTH_CHECK_TOKEN", "WATCH_TOKEN"),
    "functions": ("DATABASE_URL", *REDIS, "LEADS_ENCRYPTION_KEY", "RESEND_API_KEY", "CRON_SECRET",
                  "HEALTH_CHECK_TOKEN", "CANARY_SECRET", "SALES_WHATSAPP"),
}  # fmt: skip

# What production can do without: checked where it is set.
OPTIONAL = ("TURNSTILE_SECRET_KEY",)

SELECT_APP_RIGHTS = """
select current_user, to_regclass('leads') is not null,
  coalesce(has_table_privilege(to_regclass('leads'), 'insert'), false)
"""
SELECT_OWNER_RIGHTS = """
select current_user, to_regclass('leads') is not null,
  coalesce((select pg_has_role(relowner, 'USAGE') from pg_class
            where oid = to_regclass('leads')), false)
"""
# Slack's names for what is wrong -> words.
SLACK_ERRORS = {
    **dict.fromkeys(("invalid_auth", "token_expired", "token_revoked", "not_authed",
                     "account_inactive"), connections.REFUSED_TOKEN),
    "missing_scope": connections.FORBIDDEN_TOKEN,
    "channel_not_found": "the channel does not exist, or the bot is not invited to it",
    "not_in_channel": "the bot is not invited to the channel",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VariableState:
    name: str
    state: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ServerState:
    """reason: why it cannot be used, or why it was not asked; empty when all is well."""

    name: str
    ok: bool
    reason: str


# ------------------------------------------------------------------ variables


def check_variables(settings: OperatorSettings, names: list[str]) -> list[VariableState]:
    return [_check_variable(settings, name) for name in names]


def _check_variable(settings: OperatorSettings, name: str) -> VariableState:
    setting = getattr(OperatorSettings, name.lower())
    text = settings.environ.get(name, "").strip()
    if not text:
        return VariableState(name, MISSING, setting.description)
    try:
        setting.parse(text)
    except ValueError:  # its text may quote the value
        return VariableState(name, MALFORMED, setting.description)
    return VariableState(name, OK, setting.description)


# ------------------------------------------------------------------ servers; "" when all is well


def _check_postgres(url: str, statement: str) -> str:
    with psycopg.connect(url, connect_timeout=3, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    role, has_table, has_right = row or ("", False, False)
    if not has_table:
        return f"{role} sees no table `leads`: the wrong database, or no migrations (`ops migrate`)"
    return "" if has_right else f"{connections.NO_RIGHT} ({role} and the table `leads`)"


def _check_app_database(services: OperatorServices) -> str:
    return _check_postgres(services.settings.database_url, SELECT_APP_RIGHTS)


def _check_owner_database(services: OperatorServices) -> str:
    postgres.connect(services.settings.database_direct_url).close()  # no transaction pooler
    return _check_postgres(services.settings.database_direct_url, SELECT_OWNER_RIGHTS)


def _check_redis(services: OperatorServices) -> str:
    """A write that changes nothing: a read-only token is refused."""
    settings = services.settings
    headers = {"Authorization": f"Bearer {settings.upstash_redis_rest_token}"}
    response = httpx.post(
        settings.upstash_redis_rest_url, headers=headers, timeout=TIMEOUT_S, trust_env=False,
        json=["UNLINK", "ops:check"],
    )  # fmt: skip
    if "NOPERM" in response.text:
        return connections.FORBIDDEN_TOKEN
    if "WRONGPASS" in response.text:
        return connections.REFUSED_TOKEN
    return connections.explain_status(response.status_code) or _check_redis_reply(response)


def _check_redis_reply(response: httpx.Response) -> str:
    try:
        is_reply = "result" in response.json()
    except (ValueError, TypeError):
        is_reply = False
    return "" if is_reply else "what answers there is no Upstash Redis: the address is wrong"


def _check_resend(services: OperatorServices) -> str:
    error = services.mailer.api_key_error(timeout_s=TIMEOUT_S)
    return "" if error is None else f"{connections.REFUSED_TOKEN} ({error})"


def _check_slack(services: OperatorServices) -> str:
    try:
        error = services.slack.bot_error()
    except SlackError as refusal:
        error = refusal.reason if refusal.permanent else connections.explain_reason(refusal)
    return "" if error is None else SLACK_ERRORS.get(error, error)


def _check_vercel(services: OperatorServices) -> str:
    with closing(Vercel(services.settings)) as vercel:
        vercel.production()
    return ""


def _check_supabase(services: OperatorServices) -> str:
    with supabase.Project(services.settings) as project:
        status = project.status()
    return "" if status == "ACTIVE_HEALTHY" else f"the project is {status}"


def _check_resend_admin(services: OperatorServices) -> str:
    settings = services.settings
    api = JsonApi("Resend", settings.resend_api_url, token=settings.resend_admin_key)
    with closing(api):
        api.request("GET", "/api-keys")
    return ""


def _check_upstash_account(services: OperatorServices) -> str:
    settings = services.settings
    login = (settings.upstash_email, settings.upstash_api_key)
    with closing(JsonApi("Upstash", settings.upstash_api_url, basic=login)) as api:
        api.request("GET", f"/v2/redis/database/{settings.upstash_database_id}")
    return ""


def _check_uptimerobot(services: OperatorServices) -> str:
    settings = services.settings
    uptimerobot.Client(
        settings.uptimerobot_api_url, settings.uptimerobot_api_key, TIMEOUT_S
    ).list_contact_ids()
    return ""


def _check_deep_health(services: OperatorServices) -> str:
    """The token alone: what deep health finds is no matter of these variables."""
    settings = services.settings
    response = httpx.get(
        f"{settings.site_url}/api/health?deep=true", timeout=TIMEOUT_S, trust_env=False,
        headers={"Authorization": f"Bearer {settings.health_check_token}"},
    )  # fmt: skip
    return "" if response.status_code in (200, 503) else connections.explain_status(
        response.status_code
    )  # fmt: skip


def _check_turnstile(services: OperatorServices) -> str:
    """Cloudflare refuses an invented token; it refuses the secret first, if that is wrong."""
    if services.turnstile is not None:
        services.turnstile.verify("ops-check", None, str(uuid4()))
    return ""


# Server -> the variables it takes, and the question.
SERVERS: dict[str, tuple[tuple[str, ...], Callable[[OperatorServices], str]]] = {
    "Postgres, as the functions": (("DATABASE_URL",), _check_app_database),
    "Postgres, as the owner": (("DATABASE_DIRECT_URL",), _check_owner_database),
    "Redis": (REDIS, _check_redis),
    "Resend": (("RESEND_API_KEY",), _check_resend),
    "Resend, as admin": (("RESEND_ADMIN_KEY",), _check_resend_admin),
    "Slack": (SLACK, _check_slack),
    "Vercel": (VERCEL, _check_vercel),
    "Supabase": (SUPABASE, _check_supabase),
    "Upstash, the account": (UPSTASH, _check_upstash_account),
    "UptimeRobot": (("UPTIMEROBOT_API_KEY",), _check_uptimerobot),
    "deep health at the site": (("HEALTH_CHECK_TOKEN",), _check_deep_health),
    "Turnstile": (("TURNSTILE_SECRET_KEY",), _check_turnstile),
}


def check_servers(services: OperatorServices, variables: list[VariableState]) -> list[ServerState]:
    """The servers that these variables lead to, asked at the same time."""
    states = {variable.name: variable.state for variable in variables}
    names = [name for name, (needs, _) in SERVERS.items() if {*needs} <= {*states}]

    def check(name: str) -> ServerState:
        needs, question = SERVERS[name]
        if faulty := [need for need in needs if states[need] != OK]:
            return ServerState(name, False, f"not asked: {', '.join(faulty)} first")
        reason = _ask(question, services)
        return ServerState(name, not reason, reason)

    with ThreadPoolExecutor(len(names) or 1) as pool:
        return list(pool.map(check, names))


def _ask(question: Callable[[OperatorServices], str], services: OperatorServices) -> str:
    try:
        return question(services)
    except (Failed, NotConfigured, uptimerobot.ApiError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a check that breaks is a fault of that server alone
        return connections.explain_reason(error)


# ------------------------------------------------------------------ the command


@command.root.command("check", examples=(
    "python3 -m ops check on-call", "python3 -m ops check",
))  # fmt: skip
@command.argument("duty", "one of: " + ", ".join(DUTIES) + " (default: all, with what is set)",
                  required=False, type=click.Choice(tuple(DUTIES)), metavar="[DUTY]")  # fmt: skip
def check(services: OperatorServices, args: Args) -> int:
    """Check the variables of a duty, and ask each vendor whether it takes them. Changes nothing.

    Exit 1 when a variable is missing or malformed, or a server cannot be used.
    """
    duties = [args.duty] if args.duty else list(DUTIES)
    names = list(dict.fromkeys(name for duty in duties for name in DUTIES[duty]))
    if not args.duty:
        names += (name for name in OPTIONAL if services.settings.environ.get(name, "").strip())
    variables = check_variables(services.settings, names)
    servers = check_servers(services, variables)
    if args.json:
        command.print_json({"duties": _readiness(duties, variables),
                            "variables": [asdict(variable) for variable in variables],
                            "servers": [asdict(server) for server in servers]})  # fmt: skip
    else:
        _print_report(duties, variables, servers)
    is_ready = all(not faults for faults in _readiness(duties, variables).values())
    return 0 if is_ready and all(server.ok for server in servers) else 1


def _readiness(duties: list[str], variables: list[VariableState]) -> dict[str, list[str]]:
    """Duty -> its variables that are missing or malformed."""
    faulty = {variable.name for variable in variables if variable.state != OK}
    return {duty: [name for name in DUTIES[duty] if name in faulty] for duty in duties}


def _print_report(
    duties: list[str], variables: list[VariableState], servers: list[ServerState]
) -> None:
    faults = [variable for variable in variables if variable.state != OK]
    rows = [(variable.name, variable.state, variable.meaning) for variable in faults]
    command.print_table(
        ("variable", "state", "what it is"), rows, empty="every variable is set and well-formed"
    )
    print()
    command.print_table(
        ("server", "state", "why"),
        [(server.name, OK if server.ok else "FAILS", server.reason) for server in servers],
        empty="these variables lead to no server that can be asked",
    )
    if len(duties) > 1:
        print()
        readiness = _readiness(duties, variables).items()
        rows = [(duty, "no" if faulty else "yes", ", ".join(faulty)) for duty, faulty in readiness]
        command.print_table(("duty", "ready", "missing or malformed"), rows)
