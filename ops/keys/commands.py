"""`ops keys` and `ops rotate`: the age of every key, and replacing one without an outage."""

import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import click

from lib.monitoring import secrets
from lib.monitoring.secrets import SecretUsage
from lib.problems import NotConfigured
from ops import command
from ops.command import Args
from ops.incidents import notes
from ops.keys import database, inventory, preflight, shared_secrets, vendors
from ops.keys.key_file import KeyFile
from ops.keys.key_types import KeyType
from ops.keys.rotation import Rotation, open_record, plan_steps
from ops.keys.rotation_store import RotationStore
from ops.settings import OperatorServices
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel

DEFAULT_DRAIN_S, DEFAULT_WAIT_S = 60.0, 300.0

TYPES_BY_NAME: dict[str, type[KeyType]] = {
    "DATABASE_URL": database.DatabaseRole,
    "UPSTASH_REDIS_REST_TOKEN": vendors.UpstashToken,
    "RESEND_API_KEY": vendors.ResendKey,
    "SUPABASE_SECRET_KEY": vendors.SupabaseKey,
    "SLACK_BOT_TOKEN": vendors.SlackBot,
}
TYPES_BY_OVERLAP: dict[str, type[KeyType]] = {
    inventory.PREVIOUS_VARIABLE: shared_secrets.SharedToken,
    inventory.COMMA_LIST: shared_secrets.EncryptionKey,
    inventory.MANUAL: shared_secrets.ManualKey,
}

# Names in the handbook, and in Supabase's older documents, of what is another key by now.
OLD_NAMES = {
    "SUPABASE_SERVICE_ROLE_KEY": "SUPABASE_SECRET_KEY",
    "SUPABASE_SERVICE_KEY": "SUPABASE_SECRET_KEY",
    "SERVICE_ROLE_KEY": "SUPABASE_SECRET_KEY",
}


# ------------------------------------------------------------------ ages


def parse_key_name(name: str) -> str:
    """The name of a key; the handbook's own names lead to what they have become."""
    if (current := OLD_NAMES.get(name)) is not None:
        print(f"{name} is now {current}. The functions use DATABASE_URL: after a leak rotate that"
              " too.", file=sys.stderr)  # fmt: skip
        name = current
    if name not in inventory.BY_NAME:
        names = ", ".join(sorted(inventory.BY_NAME))
        raise click.BadParameter(f"there is no key {name}; there are {names}")
    return name


@command.root.command("keys", examples=("python3 -m ops keys",))
def show_keys(services: OperatorServices, args: Args) -> int:
    """The age of every key, newest value of each key first. Exit 1 when one is overdue."""
    now = datetime.now(UTC)
    in_use = secrets.list_in_use(services.database.run)
    rows = [row for key in inventory.SECRETS for row in _key_rows(key, in_use, now)]
    if args.json:
        command.print_json(rows)
    else:
        command.print_table(
            ("name", "fingerprint", "age", "rotate by", "owner", "used by", ""),
            [_key_cells(row) for row in rows],
        )
    return 1 if any(row["verdict"] == "OVERDUE" for row in rows) else 0


def _key_rows(
    key: inventory.Secret, in_use: list[SecretUsage], now: datetime
) -> list[dict[str, Any]]:
    usages = [usage for usage in in_use if usage.name == key.name]
    blank: dict[str, Any] = {
        "name": key.name,
        "fingerprint": "-",
        "age_days": None,
        "rotate_by": None,
        "max_age_days": key.max_age_days,
        "owner": key.owner,
        "used_by": "operators" if key.operators_only else "nobody",
        "overlap": key.overlap,
        "verdict": "",
    }
    rows = []
    for place, usage in enumerate(usages):
        rows.append(
            blank
            | {
                "fingerprint": usage.fingerprint,
                "age_days": usage.age(now).days,
                "rotate_by": usage.first_seen_at + timedelta(days=key.max_age_days),
                "used_by": ", ".join(usage.deployments[:3]),
                "verdict": "OVERDUE" if usage.is_overdue(now) else "being retired" if place else "",
            }
        )
    return rows or [blank]


def _key_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table, for a person."""
    age, due = row["age_days"], row["rotate_by"]
    return (
        *(row["name"], row["fingerprint"]),
        "-" if age is None else f"{age} d",
        f"after {row['max_age_days']} d" if due is None else command.format_time(due),
        *(row["owner"], row["used_by"], row["verdict"]),
    )


# ------------------------------------------------------------------ rotating


@command.root.command(
    "rotate",
    examples=(
        "python3 -m ops rotate RESEND_API_KEY --dry-run",
        "python3 -m ops rotate DATABASE_URL --keep ~/.alfa/production.env",
        "python3 -m ops rotate CRON_SECRET --leak --keep ~/.alfa/production.env",
    ),
    dry_run=True,
    confirms=True,
)
@command.argument("name", type=parse_key_name, metavar="NAME", help="of `ops keys`")
@click.option(
    "--keep",
    default=".env.operators",
    metavar="FILE",
    help="your own variables, mode 0600: the new value goes there, and nowhere else",
    show_default=True,
)
@click.option(
    "--reason",
    type=click.Choice(("scheduled", "offboarding")),
    default="scheduled",
    help="why, for the record",
    show_default=True,
)
@click.option("--leak", is_flag=True, help="revoke first; opens a Sev1")
@click.option(
    "--with-changes",
    is_flag=True,
    help="deploy although other variables changed at Vercel since the last deployment",
)
@click.option("--old-id", metavar="ID", help="the vendor's id of the key to be revoked")
@click.option(
    "--drain",
    type=float,
    default=60.0,
    metavar="SECONDS",
    help="for requests under way on the old deployment",
    show_default=True,
)
@click.option(
    "--timeout",
    type=float,
    default=300.0,
    metavar="SECONDS",
    help="maximum wait for a deployment and its key report",
    show_default=True,
)
def rotate_key(services: OperatorServices, args: Args) -> int:
    """Replace a key: new one, deployment, proof that it is used, old one revoked and tried.

    Options that it will need are named at once, before anything is changed (exit 2). Exit 1 when a
    step did not succeed: run the same command again.
    """
    key = inventory.BY_NAME[args.name]
    if key.operators_only:
        print(f"{key.name} is not used by deployments: replace it on operators' machines",
              file=sys.stderr)  # fmt: skip
        return 2
    settings = services.settings
    type_of_key = TYPES_BY_NAME.get(key.name) or TYPES_BY_OVERLAP[key.overlap]
    key_type = type_of_key(key, services, settings.environ.get(key.name, "").strip(),
                           KeyFile(Path(args.keep)), old_id=args.old_id)  # fmt: skip
    key_type.file.read()  # a faulty line stops this before anything is changed
    if not key_type.old:
        raise NotConfigured(key.name, "is not set: there is nothing to rotate")
    plan = plan_steps(key_type, leak=args.leak)
    if args.dry_run and args.json:
        command.print_json({"name": key.name, "plan": plan, "overlap": key.overlap})
        return 0
    if args.dry_run:
        _print_plan(key, plan, sys.stdout)
        return 0
    preflight.check(services, key_type, args)
    if not args.yes:
        _print_plan(key, plan, sys.stderr)  # beside the question
    if not command.confirm(args, f"Rotate {key.name} in production?"):
        return 1
    if args.leak:
        what = f"{key.name} has leaked; it is being rotated"
        notes.raise_key_leaked(services, what, datetime.now(UTC))
    try:
        return _run_rotation(services, key_type, args)
    except ApiError as error:
        print(f"{key.name}: {error}", file=sys.stderr)
        return 1


def _run_rotation(services: OperatorServices, key_type: KeyType, args: Args) -> int:
    settings, lines = services.settings, []

    def report(line: str) -> None:
        lines.append(line)
        if not args.json:
            print(line, flush=True)

    reason = "leak" if args.leak else args.reason
    with (
        closing(Vercel(settings)) as vercel,
        RotationStore(settings.database_direct_url, key_type.key.name) as store,
    ):
        record = open_record(services, vercel, store, key_type, reason)
        if record.step or record.reason != reason:
            report(f"continues after the step {record.step}" if record.step else "begins again")
        rotation = Rotation(
            services, vercel, store, key_type, record, report,
            lambda changes: _confirm_other_changes(changes, args), args.drain, args.timeout,
        )  # fmt: skip
        rotation.run()
    if args.json:
        facts = {"name": record.name, "reason": record.reason, "old": record.old_fingerprint,
                 "new": record.new_fingerprint, "steps": lines,
                 "probe": record.facts["probe"]}  # fmt: skip
        command.print_json(facts)
    return 0


def _print_plan(key: inventory.Secret, steps: Sequence[str], file: TextIO) -> None:
    print(f"{key.name} ({key.purpose}), overlap method: {key.overlap}", file=file)
    for step in steps:
        print(f"  {step:9} {STEP_DESCRIPTIONS[step]}", file=file)


STEP_DESCRIPTIONS = {
    "create": "a new key, into your file; then it is tried",
    "set": "into Vercel's variables for production",
    "deploy": "redeploy production with the new key",
    "verify": "every live deployment reports that it uses the new key",
    "reseal": "what the old key encrypted in Redis, re-encrypted",
    "revoke": "the old key",
    "redeploy": "redeploy production without the old key",
    "reverify": "no live deployment uses the old key",
    "probe": "verify that the old key is rejected; older deployments are unsafe from then on",
}


def _confirm_other_changes(changes: list[str], args: Args) -> bool:
    """Whether the next deployment may bring these changes along; --yes does not cover them."""
    lines = "\n".join(f"  {change}" for change in changes)
    print(f"other variables were changed at Vercel since the deployment that serves was built, and "
          f"take effect with the next one:\n{lines}", file=sys.stderr, flush=True)  # fmt: skip
    if args.with_changes:
        return True
    if args.yes:
        print("--yes does not cover them; add --with-changes to deploy with them", file=sys.stderr)
        return False
    return command.confirm(args, "Deploy with them? (--with-changes)")
