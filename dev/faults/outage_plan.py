"""The staged outages: what is broken, and what visitors, Slack and the status page must say.

The expectations are the handbook's, written down before a run: a run that says otherwise is a
fault of the product, not of the table.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from dev.faults.known_faults import Fault
from dev.faults.test_site import SiteUnderTest


@dataclass(frozen=True, slots=True)
class Outage:
    """faults: switched on while it lasts. environment: variables changed for new instances.
    breaks, mends: what neither can express.

    lead: the statuses a lead may be answered with. alert: how a message in Slack must begin while
    it lasts, after its severity; None: nobody is called. incident: the rule that must be recorded
    instead of a message at once. late_alert: what Slack holds once it is back. indicator: what the
    status page may say. mail: part of the subject of a mail to operators, for what Slack itself
    cannot take. ages_mails: ten minutes pass for mails that wait. command: what an operator runs to
    end it, from the runbook.
    """

    name: str
    faults: tuple[Fault, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    breaks: Callable[[SiteUnderTest], None] | None = None
    mends: Callable[[SiteUnderTest], None] | None = None
    lead: tuple[int, ...] = (200,)
    alert: str | None = None
    incident: str | None = None
    late_alert: str | None = None
    indicator: tuple[str, ...] = ("none",)
    mail: str | None = None
    ages_mails: bool = False
    command: str = "none: it ends with the vendor's own repair"


REFUSED = Fault("database", "refuse")
REDIS_REFUSED = Fault("redis", "refuse")
RESEND_FAILS = Fault("resend", "fail", {"status": 500})
INVALID_KEY = {"status": 401, "name": "invalid_api_key", "message": "API key is invalid"}

QUEUED = (202,)
SEVERE = ("major", "critical")
STORE_REFUSED = "Postgres would refuse a lead"
DOWN = "Postgres is down"
WAIT = "ops maintenance on --for 2h --reason 'Supabase is down'"
UNDO_MIGRATION = "undo the change in SQL (the alert names it), or supabase db push"


def _schema(name: str, mode: str) -> Outage:
    return Outage(
        name,
        (Fault("schema", mode, {"table": "leads"}),),
        lead=QUEUED,
        alert="Postgres",
        indicator=SEVERE,
        command=UNDO_MIGRATION,
    )


def _break_the_build(site: SiteUnderTest) -> None:
    """A deploy whose lead function dies at import."""
    path = site.root / "api" / "leads.py"
    whole = path.read_text()
    path.with_suffix(".whole").write_text(whole)
    path.write_text(f"{whole}\nimport no_such_module\n")


def _roll_back(site: SiteUnderTest) -> None:
    path = site.root / "api" / "leads.py"
    path.with_suffix(".whole").replace(path)


def _revoke_slack_token(site: SiteUnderTest) -> None:
    site.platform.slack_api.tokens.clear()


def _issue_slack_token(site: SiteUnderTest) -> None:
    site.platform.slack_api.tokens.add(site.environment["SLACK_BOT_TOKEN"])


OUTAGES = (
    Outage("Postgres refuses connections", (REFUSED,), lead=QUEUED, alert=DOWN,
           indicator=SEVERE, command=WAIT),
    Outage("Postgres is silent", (Fault("database", "stall"),), lead=QUEUED, alert=DOWN,
           indicator=SEVERE, command=WAIT),
    Outage("Postgres has no connection left", (Fault("inside", "full"),), lead=QUEUED, alert=DOWN,
           indicator=SEVERE, command="end idle sessions (pg_stat_activity), or a larger pool"),
    Outage("Postgres is read-only", (Fault("inside", "read_only"),), lead=QUEUED, alert="Postgres",
           indicator=SEVERE, command=WAIT),
    Outage("Postgres is slow (50 ms a packet)", (Fault("database", "slow", {"delay_s": 0.05}),)),
    Outage("the password of Postgres was changed", lead=QUEUED, alert=DOWN, indicator=SEVERE,
           environment={"DATABASE_URL": "wrong password"},
           command="ops rotate DATABASE_URL"),
    _schema("a migration renamed a column", "renamed_column"),
    _schema("a right was revoked", "revoked_insert"),
    _schema("a policy was dropped", "dropped_policy"),
    _schema("a trigger fails", "failing_trigger"),
    Outage("a table is locked", (Fault("inside", "locked"),), lead=QUEUED, alert="Postgres",
           indicator=SEVERE,
           command="select pg_terminate_backend(…) (the runbook's query names it)"),
    Outage("Redis refuses connections", (REDIS_REFUSED,), incident="redis_down",
           indicator=("none", "minor")),
    Outage("Redis is silent", (Fault("redis", "stall"),), incident="redis_down",
           indicator=("none", "minor")),
    Outage("the token of Redis was changed", incident="redis_down", indicator=("none", "minor"),
           environment={"UPSTASH_REDIS_REST_TOKEN": "expired"},
           command="ops rotate UPSTASH_REDIS_REST_TOKEN"),
    Outage("Resend fails", (RESEND_FAILS,), incident="mail_delayed", indicator=("none", "minor"),
           ages_mails=True),
    Outage("the key of Resend is refused", (Fault("resend", "fail", INVALID_KEY),),
           alert="Mail is refused", indicator=("none", "minor", "major"),
           command="ops rotate RESEND_API_KEY"),
    Outage("Sentry is silent", (Fault("sentry", "stall"),)),
    Outage("Slack fails, and Postgres is down", (Fault("slack", "fail", {"status": 500}), REFUSED),
           lead=QUEUED, indicator=SEVERE, late_alert=DOWN, command=WAIT),
    Outage("the token of Slack was revoked", breaks=_revoke_slack_token, mends=_issue_slack_token,
           alert="Slack refuses our alerts", mail="Slack refuses our alerts",
           command="ops rotate SLACK_BOT_TOKEN"),
    Outage("Postgres and Redis are down", (REFUSED, REDIS_REFUSED), lead=QUEUED, alert="",
           indicator=SEVERE, command="ops leads import sales.mbox (once Postgres is back)"),
    Outage("Postgres and Resend are down", (REFUSED, RESEND_FAILS), lead=QUEUED, alert=DOWN,
           indicator=SEVERE, command=WAIT),
    Outage("Postgres, Redis and Resend are down", (REFUSED, REDIS_REFUSED, RESEND_FAILS),
           lead=(503,), alert="", indicator=SEVERE,
           command="bring any one of the three back; browsers send again by themselves"),
    Outage("a deploy whose lead function dies at its start", breaks=_break_the_build,
           environment={"VERCEL_DEPLOYMENT_ID": "dpl_broken"}, mends=_roll_back,
           lead=(500, 502), alert="A lead does not get through",
           indicator=SEVERE, command="ops rollback"),
)  # fmt: skip
