"""`ops keys` and `ops rotate`: how old keys are, and replacing one without an outage."""

import argparse
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.monitoring import secrets
from lib.monitoring.secrets import SecretUsage
from lib.problems import NotConfigured
from lib.services import Services
from ops import command
from ops.incidents import notes
from ops.keys import database, env_file, inventory, shared_secrets, vendors
from ops.keys.key_file import RETIRING_SUFFIX, KeyFile
from ops.keys.key_types import KeyType
from ops.keys.rotation import Rotation, plan_steps
from ops.keys.rotation_store import RotationRecord, RotationStore
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


def show_keys(services: Services, args: argparse.Namespace) -> int:
    """The age of every key in one table, newest of a name first. Exit 1 when one is overdue."""
    now = datetime.now(UTC)
    in_use = secrets.list_in_use(services.database.run)
    rows = [row for key in inventory.SECRETS for row in _key_rows(key, in_use, now)]
    if args.json:
        command.print_json(rows)
    else:
        command.print_table(
            ("name", "fingerprint", "age", "rotate by", "owner", "used by", "overlap", ""),
            [tuple(row.values()) for row in rows],
        )
    return 1 if any(row["verdict"] == "OVERDUE" for row in rows) else 0


def _key_rows(
    key: inventory.Secret, in_use: list[SecretUsage], now: datetime
) -> list[dict[str, Any]]:
    mine = [one for one in in_use if one.name == key.name]
    blank = {"name": key.name, "fingerprint": "-", "age": "-", "rotate_by": f"{key.max_age_days} d",
             "owner": key.owner, "used_by": "operators" if key.operators_only else "nobody",
             "overlap": key.overlap, "verdict": ""}  # fmt: skip
    rows = []
    for place, one in enumerate(mine):
        due = one.first_seen_at.date().toordinal() + key.max_age_days
        rows.append(
            blank
            | {
                "fingerprint": one.fingerprint,
                "age": f"{one.age(now).days} d",
                "rotate_by": datetime.fromordinal(due).date().isoformat(),
                "used_by": ", ".join(one.deployments[:3]),
                "verdict": "OVERDUE" if one.is_overdue(now) else "being retired" if place else "",
            }
        )
    return rows or [blank]


# ------------------------------------------------------------------ rotating


def rotate_key(services: Services, args: argparse.Namespace) -> int:
    """Replace a key: new one, deployment, proof that it is used, old one revoked and tried."""
    key = inventory.BY_NAME[args.name]
    kind_of = TYPES_BY_NAME.get(key.name) or TYPES_BY_OVERLAP[key.overlap]
    settings = services.settings
    if key.operators_only:
        print(f"{key.name} is on operators' machines alone: change it there", file=sys.stderr)
        return 2
    kind = kind_of(key, services, settings.secrets_by_name().get(key.name, ""),
                   KeyFile(Path(args.keep)), old_id=args.old_id)  # fmt: skip
    kind.file.read()  # a faulty line stops this before anything is changed
    if not kind.old:
        raise NotConfigured(key.name, "is not set: there is nothing to rotate")
    if args.dry_run:
        return _print_plan(kind, args)
    if not args.yes and not _confirm_rotation(kind, args):
        print("nothing was changed", file=sys.stderr)
        return 1
    if not settings.key_fingerprint_pepper:
        raise NotConfigured("KEY_FINGERPRINT_PEPPER", "is not set")
    if args.leak:
        what = f"{key.name} has leaked; it is being rotated"
        notes.raise_key_leaked(services, what, datetime.now(UTC))
    try:
        with (
            closing(Vercel(settings)) as vercel,
            RotationStore(settings.database_direct_url, key.name) as book,
        ):
            return _run_rotation(services, vercel, book, kind, args)
    except ApiError as refused:
        print(f"{key.name}: {refused}", file=sys.stderr)
        return 1


def _run_rotation(
    services: Services, vercel: Vercel, book: RotationStore, kind: KeyType, args: argparse.Namespace
) -> int:
    lines: list[str] = []

    def say(words: str) -> None:
        lines.append(words)
        if not args.json:
            print(words, flush=True)

    pepper = services.settings.key_fingerprint_pepper
    page = book.find_open(kind.key.name)
    if page is None:
        page = _begin(vercel, book, kind, args, pepper)
    else:
        _resume(page, kind, pepper)
        say(f"going on after {page.step or 'nothing'}")
        if args.leak and page.reason != "leak":
            _move_revoke_first(page.facts, page.step, kind)
            page.reason = "leak"
            book.update(page)
    kind.facts = page.facts

    def agree(changed: list[str]) -> bool:
        return _confirm_other_changes(changed, args)

    done = Rotation(
        services, vercel, book, kind, say, pepper, args.drain, args.timeout, page, agree
    ).run()
    if args.json:
        facts = {"name": done.name, "reason": done.reason, "old": done.old_fingerprint,
                 "new": done.new_fingerprint, "steps": lines,
                 "probe": done.facts["probe"]}  # fmt: skip
        command.print_json(facts)
    return 0


def _move_revoke_first(facts: dict[str, Any], step: str, kind: KeyType) -> None:
    """What was a planned rotation turns out to be a leak: the vendor revokes at once."""
    steps: list[str] = facts["plan"]
    done = steps.index(step) + 1 if step else 0
    if not kind.needs_two_deployments and "revoke" in steps[done:]:
        rest = [one for one in steps[done:] if one != "revoke"]
        facts["plan"] = [*steps[:done], "revoke", *rest]


def _begin(
    vercel: Vercel, book: RotationStore, kind: KeyType, args: argparse.Namespace, pepper: str
) -> RotationRecord:
    """A new page. The value here must be the one that production says it uses: the environment's,
    or, where a shell has not read it anew, the file's."""
    name = kind.key.name
    serving, _ = vercel.production()
    marks = book.fingerprints_by_deployment(name, datetime.fromtimestamp(0, UTC)).get(serving)
    held = (kind.old, kind.file.read().get(name, ""))
    known = [one for one in held if one and (not marks or _fingerprint(pepper, kind, one) in marks)]
    if not known:
        words = f"production uses {', '.join(sorted(marks or ()))}, and the value here is "
        raise ApiError(0, "other_key", words + _fingerprint(pepper, kind, kind.old))
    kind.old = known[0]
    env_file.quote(name, kind.old)  # it will stay in the file while it is being retired
    kind.file.update({name + RETIRING_SUFFIX: None})  # of a rotation that died as it was done
    kind.prepare(book.last_facts(name))
    reason = "leak" if args.leak else args.reason
    facts = {**kind.facts, "plan": plan_steps(kind, leak=args.leak)}
    return book.begin(name, reason, _fingerprint(pepper, kind, kind.old), facts, datetime.now(UTC))


def _resume(page: RotationRecord, kind: KeyType, pepper: str) -> None:
    """Find the old value again: in the file, from the moment there is a new one."""
    retiring = kind.file.read().get(kind.key.name + RETIRING_SUFFIX)
    for value in (retiring, kind.old):
        if value and _fingerprint(pepper, kind, value) == page.old_fingerprint:
            kind.old = value
            return
    words = f"a rotation from {page.old_fingerprint} is under way, and the old value is not here"
    raise ApiError(0, "other_key", words)


def _fingerprint(pepper: str, kind: KeyType, value: str) -> str:
    return secrets.fingerprint(pepper, value.partition(",")[0] if kind.reencrypts else value)


def _print_plan(kind: KeyType, args: argparse.Namespace) -> int:
    steps = plan_steps(kind, leak=args.leak)
    if args.json:
        command.print_json({"name": kind.key.name, "plan": steps, "overlap": kind.key.overlap})
        return 0
    print(f"{kind.key.name} ({kind.key.purpose}), two at once by: {kind.key.overlap}")
    for name in steps:
        print(f"  {name:9} {STEP_DESCRIPTIONS[name]}")
    return 0


STEP_DESCRIPTIONS = {
    "create": "a new key, into your file; then it is tried",
    "set": "into Vercel's variables for production",
    "deploy": "what serves now, built again with it",
    "verify": "every live deployment says that it uses the new key",
    "reseal": "what is sealed with the old key in Redis, sealed anew",
    "revoke": "the old key",
    "redeploy": "once more, without the old key",
    "reverify": "no live deployment uses the old key",
    "probe": "the old key must fail; older deployments are unsafe from then on",
}


def _confirm_rotation(kind: KeyType, args: argparse.Namespace) -> bool:
    _print_plan(kind, args)
    return _ask_yes_no(f"Rotate {kind.key.name} in production? (yes/no) ")


def _confirm_other_changes(changed: list[str], args: argparse.Namespace) -> bool:
    """Whether the next deployment may bring these changes along; --yes alone does not say so."""
    lines = "\n".join(f"  {one}" for one in changed)
    print(f"since the deployment that serves, other variables changed at Vercel, and take effect "
          f"with the next one:\n{lines}", file=sys.stderr, flush=True)  # fmt: skip
    if args.with_changes:
        return True
    if args.yes:
        print("--yes does not speak for them: --with-changes does", file=sys.stderr)
        return False
    return _ask_yes_no("Deploy with them? (yes/no) ")


def _ask_yes_no(question: str) -> bool:
    try:
        return input(question) == "yes"
    except EOFError:
        return False


def parse_key_name(name: str) -> str:
    """The name of a key; the handbook's own names lead to what they have become."""
    if (now := OLD_NAMES.get(name)) is not None:
        print(f"{name} is {now} now, a key that can be made anew; the functions themselves log in "
              "with DATABASE_URL: after a leak of the project's keys rotate that too",
              file=sys.stderr)  # fmt: skip
        name = now
    if name not in inventory.BY_NAME:
        known = ", ".join(sorted(inventory.BY_NAME))
        raise argparse.ArgumentTypeError(f"there is no key {name}; there are {known}")
    return name


def add_commands(areas: Any) -> None:
    command.command(areas, "keys", show_keys, "python3 -m ops keys", as_json=True)
    verb = command.command(
        areas,
        "rotate",
        rotate_key,
        "python3 -m ops rotate RESEND_API_KEY --dry-run",
        "python3 -m ops rotate DATABASE_URL --keep ~/.alfa/production.env",
        "python3 -m ops rotate CRON_SECRET --leak --keep ~/.alfa/production.env",
        dry_run=True,
        as_json=True,
    )
    verb.add_argument("name", type=parse_key_name, metavar="NAME", help="of `ops keys`")
    verb.add_argument("--keep", default=".env.operators", metavar="FILE",
                      help="your own variables, mode 0600: the new value goes there, and nowhere "
                      "else (default: %(default)s)")  # fmt: skip
    verb.add_argument("--reason", choices=("scheduled", "offboarding"), default="scheduled")
    verb.add_argument("--leak", action="store_true", help="revoke first; opens a Sev1")
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.add_argument("--with-changes", action="store_true",
                      help="deploy although other variables changed at Vercel since the "
                      "deployment that serves was built")  # fmt: skip
    verb.add_argument("--old-id", metavar="ID", help="the vendor's id of the key to be revoked")
    verb.add_argument("--drain", type=float, default=DEFAULT_DRAIN_S, metavar="SECONDS",
                      help="for requests under way on the old deployment "
                      "(default: %(default)s)")  # fmt: skip
    verb.add_argument("--timeout", type=float, default=DEFAULT_WAIT_S, metavar="SECONDS",
                      help="for a deployment, and for its word (default: %(default)s)")  # fmt: skip
