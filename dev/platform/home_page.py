"""The page that leads to every part of the local platform, and the same addresses as a table.

Plain HTML: its forms post to the control server (control.py), which answers with this page again.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from dev.edge.http_server import Response
from dev.vendors import pages
from dev.vendors.fault_switch import MODES

LEAD = (
    '{"business_name":"Barber Maju","contact_name":"Andi","phone_whatsapp":"0812 3456 7890",'
    '"city":"Medan","salon_type":"BARBER","consent":true}'
)
STAND_INS = {
    "resend": ("Mail", "what Resend delivered"),
    "slack": ("Slack", "the channel of the alerts"),
    "sentry": ("Sentry", "what was reported"),
    "upstash": ("Upstash REST", "in front of Valkey"),
    "turnstile": ("Turnstile", "Cloudflare's captcha"),
    "vercel": ("Vercel API", "deployments, rollback, variables"),
    "supabase": ("Supabase API", "backups and keys of the project"),
    "upstash api": ("Upstash API", "users and keys"),
    "uptimerobot": ("UptimeRobot API", "the monitors outside"),
}
SITE_PAGES = {
    "Partnership form": "/",
    "Products": "/produk",
    "Status": "/status",
    "Web Vitals": "/vitals",
    "Health": "/api/health",
}


def curl_line(site: str) -> str:
    """A command that sends a lead."""
    return f"curl -H 'Content-Type: application/json' {site}/api/leads -d '{LEAD}'"


def format_addresses(state: Mapping[str, Any]) -> str:
    """Every address as a table, and the command that sends a lead."""
    vendors = [(_title(name), vendor["url"]) for name, vendor in state["stand_ins"].items()]
    rows = [
        ("Everything", f"{state['control_url']}/"),
        *((title, state["url"] + path) for title, path in SITE_PAGES.items()),
        *vendors,
        ("Control", f"{state['control_url']}/state"),
        ("psql", state["admin_database_url"]),
        ("Valkey", state["redis_url"]),
    ]
    table = "\n".join(f"  {title:<18}{address}" for title, address in rows)
    return f"{table}\n\nSend a lead:\n  {curl_line(state['url'])}"


def home(
    state: Mapping[str, Any],
    crons: Iterable[Mapping[str, str]],
    switches: Mapping[str, Mapping[str, Any]],
    notice: str,
) -> Response:
    """switches: a stand-in's name -> its fault; notice: the outcome of what was just posted."""
    articles = [
        _section("What happened", f"<pre>{escape(notice)}</pre>") if notice else "",
        _section("Site", _links((t, state["url"] + path, "") for t, path in SITE_PAGES.items())),
        _section("Send a lead", f"<pre>{escape(curl_line(state['url']))}</pre>"),
        _section("Crons", "".join(map(_cron_form, crons))),
        _section("Vendors and their faults", _vendors(state["stand_ins"], switches)),
        _section("Databases", _databases(state)),
        _section("Functions", _functions(state["control_url"])),
    ]
    lead = "Everything that runs here. Ctrl-C in the terminal, or python3 -m dev down, stops it."
    return pages.page("Alfa Beauty, the local platform", lead, articles)


def _vendors(
    stand_ins: Mapping[str, Mapping[str, str]], switches: Mapping[str, Mapping[str, Any]]
) -> str:
    return "".join(_vendor(name, vendor["url"], switches) for name, vendor in stand_ins.items())


def _vendor(name: str, url: str, switches: Mapping[str, Mapping[str, Any]]) -> str:
    fault = switches[name]
    options = "".join(
        f"<option{' selected' if mode == fault['mode'] else ''}>{mode}</option>" for mode in MODES
    )
    subject = escape(_title(name), quote=True)
    link = _links([(_title(name), url, STAND_INS.get(name, ("", ""))[1])])
    received = f'<a href="{url}/_received">received</a>, <a href="{url}/_control">switch</a>'
    return (
        f'<form class="row" method="post" action="/switch"><div>{link}{received}</div>'
        f'<input type="hidden" name="vendor" value="{escape(name, quote=True)}">'
        f'<select name="mode" aria-label="Fault of {subject}">{options}</select>'
        f'<input name="times" size="6" inputmode="numeric" placeholder="times"'
        f' aria-label="Times, for {subject}" value="{fault["times"] or ""}">'
        f'<button>Set<span class="hidden"> the fault of {subject}</span></button></form>'
    )


def _cron_form(cron: Mapping[str, str]) -> str:
    path = escape(cron["path"], quote=True)
    return (
        f'<form class="row" method="post" action="/cron"><div><b>{path}</b><br>'
        f"{escape(cron['schedule'])} (UTC)</div>"
        f'<input type="hidden" name="path" value="{path}">'
        f'<button>Run<span class="hidden"> {path}</span></button></form>'
    )


def _databases(state: Mapping[str, Any]) -> str:
    commands = [
        ("PostgreSQL, as the owner", f"psql '{state['admin_database_url']}'"),
        ("PostgreSQL, as the functions", f"psql '{state['database_url']}'"),
        ("Valkey (Redis)", f"redis-cli -u {state['redis_url']}"),
    ]
    return "".join(f"{escape(t)}<pre>{escape(command)}</pre>" for t, command in commands)


def _functions(control: str) -> str:
    links = [
        ("Logs", f"{control}/logs", "the last 10,000 lines"),
        ("Processes", f"{control}/functions", "cold starts and requests"),
        ("State", f"{control}/state", "every address, secret and variable"),
    ]
    return (
        f'{_links(links)}<form method="post" action="/functions/restart">'
        "<button>Restart the functions</button></form>"
    )


def _title(name: str) -> str:
    return STAND_INS.get(name, (name, ""))[0]


def _section(title: str, content: str) -> str:
    return f"<article><h2>{escape(title)}</h2>{content}</article>"


def _links(links: Iterable[tuple[str, str, str]]) -> str:
    """(title, address, what it shows) each."""
    items = (
        f'<li><a href="{escape(address, quote=True)}">{escape(title)}</a> {escape(text)}</li>'
        for title, address, text in links
    )
    return f'<ul class="links">{"".join(items)}</ul>'
